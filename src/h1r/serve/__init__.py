"""`h1r serve`: OpenAI's interface over an engine of this process or over other servers, with DeepConf as an option."""
