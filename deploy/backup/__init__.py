"""Backups of the database, and the way back to any moment since the oldest: `./run backup`, `./run restore`.

A backup is a physical copy, made while the server goes on, by MySQL's clone plugin or by mariadb-backup. The server's
binary logs are copied beside it. A restore unpacks a copy and has a private server replay the logs up to a moment, as a
replica would. Knows nothing of the application. docs/backup.md says how it is used, and why it is done so.
"""
