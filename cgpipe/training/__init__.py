"""Trains models."""
