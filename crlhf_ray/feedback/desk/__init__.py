"""The page where people judge code, the lead's dashboard, and the HTTP API behind both."""
