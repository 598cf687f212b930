"""cgpipe over HTTP: pictures in and out, videos as jobs, and the app in the browser."""
