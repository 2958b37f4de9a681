"""The server: vLLM's own OpenAI app and engine in this process, one middleware in front.

`launch` puts it together, `gate` is the middleware. Only files of `serve.engines` import vLLM; all
else is plain Python over two ports, the registry and `serve.engines.engine.Engine`. Imports nothing
itself: vLLM's plugin loader comes through here in each of its processes.
"""
