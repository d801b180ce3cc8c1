"""The page where people review code, the lead's dashboard, and the HTTP API behind both."""
