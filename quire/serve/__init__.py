"""`quire serve`: the APIs that people's tools already speak, over the engine, and a page to talk with a model.

Two kinds of process. The front (`app` and what it joins) speaks HTTP; it holds no model and imports no torch. Each model has a worker
(`worker`), a child process with the engine in it, which `models` starts, watches and starts again. Between them run frames of JSON
(`wire`): an `asks.Ask` one way, what was said in a step the other way.
"""
