"""Machinery: exact selection by counting, compiled and on the host, and what it stands on."""
