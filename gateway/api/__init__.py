"""What is asked over HTTP, a module for each subject; `gateway.app` puts them together, and takes events itself."""
