"""Quantum graphs through persistent Parsl workers; progress, status, resume."""
