"""The cameras: DECam, and what the middleware has to know about each."""
