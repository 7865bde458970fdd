"""Run folders: files, record, lock, log, listing."""
