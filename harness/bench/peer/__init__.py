"""This project's engine beside the public extension, on one server: the same rows, settings and rounds."""
