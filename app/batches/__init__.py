"""Files of requests, and batches that run through them: OpenAI's /v1/files and /v1/batches."""
