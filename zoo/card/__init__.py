"""Model cards: their text, metadata, tables and licenses."""
