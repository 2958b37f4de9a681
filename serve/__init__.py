"""The server: vLLM's own OpenAI app and engine in this process, one middleware in front.

Only `serve.vllm_engine` imports vLLM. Everything else is plain Python over two ports, the
registry and `serve.engine.Engine`. Imports nothing itself: vLLM's plugin loader comes through
here in each of its processes.
"""
