"""Judges every Ollama of the config: whether it is there, does what we assume, has the models, and is asked by nobody but us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from supervisord_ai.core.doctor.finding import Finding, Fix, Severity, good
from supervisord_ai.core.model_name import read_name
from supervisord_ai.core.serving import OLLAMA_PORT

OLDEST = (0, 5, 0)  # /api/ps, /api/embed, structured outputs
DROP_IN = "/etc/systemd/system/ollama.service.d/override.conf, below [Service]"
RELOAD = "sudo systemctl daemon-reload && sudo systemctl restart ollama"


@dataclass(frozen=True, slots=True)
class Intruder:
    """A process that has a connection to an Ollama and is not ours."""

    who: str
    connections: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One backend as it was found.

    Attributes:
        name, url, slots: as the config says.
        where: where it was found, as people read it.
        trouble: why it did not answer; "" where it did.
        is_ours: we start it, with the environment that we assume.
        environ: of the process that serves it, None where it is not of this system or may not be looked at.
        is_on_windows: its variables are set with setx.
        models: what it has; `light_model` is what level 2 asks for, "" where nothing is substituted.
        intruders: who else has a connection to it now.
    """

    name: str
    url: str
    slots: int
    where: str = ""
    trouble: str = ""
    version: str = ""
    is_ours: bool = False
    environ: Mapping[str, str] | None = None
    is_on_windows: bool = False
    models: tuple[str, ...] = ()
    light_model: str = ""
    light_model_is_used: bool = True
    intruders: tuple[Intruder, ...] = ()


def check_engines(engines: tuple[EngineFacts, ...]) -> tuple[Finding, ...]:
    """Return what is found."""
    return tuple(found for engine in engines for found in _one(engine))


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version; () where it has none, as a build from a checkout."""
    return tuple(int(part) for part in version.split("-", 1)[0].split(".") if part.isdigit())


def _one(engine: EngineFacts) -> Iterator[Finding]:
    name = f"ollama.{engine.name}"
    if engine.is_ours and engine.trouble:
        words = f"{engine.url} is started by us, and does not run: {engine.trouble}"
        yield Finding(f"{name}.reachable", Severity.NOTE, words, "it runs while the daemon does")
        return
    if engine.trouble:
        elsewhere = Fix("config.toml, if it is elsewhere", ("[[ollama]]", f'url = "http://127.0.0.1:{OLLAMA_PORT}"'))
        fixes = (Fix("a shell", ("ollama serve",)), elsewhere)
        why = "requests are taken and wait until it is there, at most until their deadline"
        yield Finding(f"{name}.reachable", Severity.FAIL, f"{engine.url}: {engine.trouble}", why, fixes)
        return
    yield _version(name, engine)
    yield from _slots(name, engine)
    yield from _cloud(name, engine)
    yield from _models(name, engine)
    yield from _alone(name, engine)


def _version(name: str, engine: EngineFacts) -> Finding:
    at = engine.where or engine.url
    numbers = version_numbers(engine.version)
    if numbers and any(numbers) and numbers < OLDEST:
        words = f"Ollama {engine.version} at {at} is older than {'.'.join(map(str, OLDEST))}"
        fix = Fix("a shell", ("curl -fsSL https://ollama.com/install.sh | sh",))
        why = "what is loaded, and structured answers, cannot be asked for"
        return Finding(f"{name}.version", Severity.WARN, words, why, (fix,))
    return good(f"{name}.version", f"Ollama {engine.version or 'of an unknown version'} at {at}")


def _slots(name: str, engine: EngineFacts) -> Iterator[Finding]:
    if engine.environ is None or engine.is_ours:
        if not engine.is_ours:
            words = f"OLLAMA_NUM_PARALLEL of {engine.name} cannot be seen from here; `slots` is {engine.slots}"
            fix = _set(engine, "OLLAMA_NUM_PARALLEL", str(engine.slots))
            yield Finding(f"{name}.slots", Severity.NOTE, words, "it must be at least that, or calls wait inside Ollama", (fix,))
        return
    said = engine.environ.get("OLLAMA_NUM_PARALLEL", "")
    has = int(said) if said.isdigit() and int(said) else 1  # Ollama's own default
    if has >= engine.slots:
        more = f"; {has - engine.slots} of them stay unused" if has > engine.slots else ""
        yield good(f"{name}.slots", f"OLLAMA_NUM_PARALLEL is {has}, `slots` is {engine.slots}{more}")
        return
    words = f"OLLAMA_NUM_PARALLEL is {said or 'not set (1)'}, and `slots` is {engine.slots}"
    why = "the calls above wait inside Ollama, where they have no order, and one that leaves there may take a slot with it"
    yield Finding(f"{name}.slots", Severity.WARN, words, why, (_set(engine, "OLLAMA_NUM_PARALLEL", str(engine.slots)),))


def _cloud(name: str, engine: EngineFacts) -> Iterator[Finding]:
    if engine.environ is None or engine.is_ours:
        return
    if engine.environ.get("OLLAMA_NO_CLOUD", "") in {"1", "true"}:
        yield good(f"{name}.cloud", "OLLAMA_NO_CLOUD is set: nothing leaves this machine")
        return
    words = "OLLAMA_NO_CLOUD is not set"
    why = "we refuse cloud models and cloud tools; who calls Ollama past us can still use them"
    yield Finding(f"{name}.cloud", Severity.NOTE, words, why, (_set(engine, "OLLAMA_NO_CLOUD", "1"),))


def _models(name: str, engine: EngineFacts) -> Iterator[Finding]:
    if not engine.models:
        fix = Fix("a shell", ("ollama pull llama3.2:3b",))
        yield Finding(f"{name}.models", Severity.WARN, "it has no model", "every call is a 404", (fix,))
        return
    yield good(f"{name}.models", f"{len(engine.models)} model{'s' if len(engine.models) != 1 else ''}")
    light = engine.light_model
    if light and engine.light_model_is_used and read_name(light) not in {read_name(model) for model in engine.models}:
        fixes = (
            Fix("a shell", (f"ollama pull {light}",)),
            Fix("config.toml, below [levels], to do without", ('light_model = ""',)),
        )
        words = f"the light model {light} is not there"
        why = "level 2 then answers with the model that was asked for, and takes as long as that takes"
        yield Finding(f"{name}.light-model", Severity.WARN, words, why, fixes)


def _alone(name: str, engine: EngineFacts) -> Iterator[Finding]:
    if not engine.intruders:
        yield good(f"{name}.alone", "nobody else has a connection to it now")
        return
    for one in engine.intruders:
        words = f"{one.who} calls it past us ({one.connections} connection{'s' if one.connections != 1 else ''})"
        why = "it takes slots that nobody gave, so somebody's wait has no reason"
        fixes = (
            Fix("a shell", ("sudo ai-supervisor takeover",), "who calls localhost:11434 then reaches us"),
            Fix("config.toml, to close it to agents", ("[isolation]", 'mode = "nft"')),
        )
        yield Finding(f"{name}.alone", Severity.WARN, words, why, fixes)


def _set(engine: EngineFacts, variable: str, value: str) -> Fix:
    if engine.is_on_windows:
        return Fix("PowerShell on Windows", (f"setx {variable} {value}",), "quit Ollama in the tray and start it again")
    return Fix(DROP_IN, (f'Environment="{variable}={value}"',), RELOAD)
