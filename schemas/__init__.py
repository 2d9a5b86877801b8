"""Nouns: one record, one file. Bytes are decoded here, once; past that a record is right by construction."""
