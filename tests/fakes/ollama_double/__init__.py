"""A double of Ollama: its routes, texts, timing, limits and, behind switches, its leaks; no model.

A request goes: `double` (connection) > `routes` (Host, Origin, the table) > `answers` (reads the body as Go would, `gojson`
and `requests`) > `native` (the checks in their order) > `scheduler` (which models are loaded) > `runner` (slots, tokens) and
back through a voice (`voices`, `openai_face`, `anthropic_face`, `responses_face`). What the model says is a `Script`: from
`Double.script`, or from a directive in the prompt, `[[n=5 delay=0.02 fail=3]]`.

In process, under a mock clock:

    async with running(Double(options=DoubleOptions(leaks=Leaks(on_slow_disconnect=True)))) as double:
        client = OllamaClient("http://double", dial=double.dial)
        ...
        assert double.statistics().peak_running == 2

As a server: `python -m tests.fakes.ollama_double --listen 127.0.0.1:0 --model llama3.2:3b`.

Not here: a GPU (sizes are what the models declare), tokenizers (a word is a token), Modelfile templates.
"""

from .catalogue import ModelSpec, embedding_model
from .double import DEFAULT_MODELS, Counts, Double, running
from .machine import Ask
from .options import DoubleOptions, Leaks
from .scripting import UNICODE_TOKEN, Script, words

__all__ = [
    "Double",
    "running",
    "DoubleOptions",
    "Leaks",
    "ModelSpec",
    "embedding_model",
    "DEFAULT_MODELS",
    "Script",
    "words",
    "UNICODE_TOKEN",
    "Ask",
    "Counts",
]
