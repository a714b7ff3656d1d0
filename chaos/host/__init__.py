"""The host tier: books embedded in real host processes that do what hosts do, judged from outside.

A plan gives one book several lives. In each a host process opens it, pays, has a habit (it copies
its own files, forks, cancels, is interrupted, ...), and ends by itself or by SIGKILL; others touch
the files meanwhile. After each life the book is opened again and compared with what was
acknowledged. The book is used as any host would, by the public API and the commands.
"""
