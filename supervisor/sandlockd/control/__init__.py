"""The service: who is asked by clients, and keeps a supervisor for each sandbox."""
