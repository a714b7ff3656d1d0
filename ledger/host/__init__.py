"""What runs an engine in a process: its threads and loop, the embedded book, the server.

The only room that ties doors, engine and files together.
"""
