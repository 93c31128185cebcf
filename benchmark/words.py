"""The words of the output, by what they mean: English and Russian."""

from __future__ import annotations

from pathlib import Path

LANGUAGES = ("en", "ru")

_WORDS = {
    # calls
    "bare": ("bare process", "обычный процесс"),
    "bare_file": ("bare process, program in a file", "обычный процесс, программа в файле"),
    "runner": ("runner alone, attached once", "только раннер, соединение открыто"),
    "runner_anew": (
        "runner alone, attached for each run",
        "только раннер, соединение на каждый запуск",
    ),
    "docker_exec": ("`docker exec`", "`docker exec`"),
    "execute": ("execute in a ready session", "запуск в готовой сессии"),
    "single_run": ("single run, `POST /execute`", "отдельный запуск, `POST /execute`"),
    "open_warm": ("session ready, warm sandbox", "сессия готова, прогретая песочница"),
    "docker_start": ("Docker's own create + start", "сам Docker: create + start"),
    "open_cold": ("session ready, cold start", "сессия готова, холодный старт"),
    # stages
    "client": ("client and network", "клиент и сеть"),
    "accept": ("accept", "приём"),
    "queue": ("queue", "очередь"),
    "prepare": ("prepare", "подготовка"),
    "program": ("program", "программа"),
    "answer": ("answer", "ответ"),
    "service": ("service", "сервис"),
    "runner_stage": ("runner", "раннер"),
    # components
    "api": ("API", "API"),
    "postgresql": ("PostgreSQL", "PostgreSQL"),
    "queue_part": ("queue", "очередь"),
    "worker": ("worker", "воркер"),
    "docker": ("Docker", "Docker"),
    "load": ("load generator", "генератор нагрузки"),
    "total": ("all but the program", "всё, кроме программы"),
    # headings
    "one_at_a_time": ("one at a time", "по одному"),
    "until_ready": ("until a session is ready", "пока сессия не готова"),
    "at_once": ("sessions at once", "сессий одновременно"),
    "stages": ("stages of an execute, median, ms", "этапы запуска, медиана, мс"),
    "processor": (
        "processor time per execute, ms, sessions at once",
        "процессорное время на запуск, мс, сессий одновременно",
    ),
    "p50": ("p50, ms", "p50, мс"),
    "p95": ("p95, ms", "p95, мс"),
    "p99": ("p99, ms", "p99, мс"),
    "beside": ("compared with, p50, ms", "сравнение, p50, мс"),
    "p50_ratio": ("p50, ratio", "p50, отношение"),
    "p95_ratio": ("p95, ratio", "p95, отношение"),
    "bare_rate": ("bare processes per second", "обычных процессов в секунду"),
    "rate": ("runs per second", "запусков в секунду"),
    "ratio": ("ratio", "отношение"),
    # notes
    "left_out": ("Left out", "Пропущено"),
    "containers": ("runner alone, `docker exec`", "только раннер, `docker exec`"),
    "sessions": ("sessions at once", "сессий одновременно"),
    "stage_times": ("stages of an execute", "этапы запуска"),
    "processor_time": (
        "processor time of the service's processes",
        "процессорное время процессов сервиса",
    ),
    "throttled": (
        "Each sandbox was at its CPU limit, which bare processes don't have, with this many "
        "sessions at once",
        "Песочницы упирались в свой лимит CPU, которого обычные процессы не имеют, при таком числе "
        "сессий",
    ),
    "busy": (
        "The machine was busy before the start; load",
        "Перед началом машина была занята; нагрузка",
    ),
    "cores": ("cores", "ядра"),
    # the picture
    "title": ("Latency of an execute, p50, ms", "Время запуска, p50, мс"),
    "bare_at_once": ("bare processes at once", "обычных процессов одновременно"),
    "others": ("other", "другое"),
}


def word(key: str, language: str) -> str:
    return _WORDS[key][LANGUAGES.index(language)]


def language_of(file: Path) -> str:
    """A file's language is in its name: `README.ru.md`."""
    return next((name for name in LANGUAGES if f".{name}" in file.suffixes[:-1]), "en")


def number(value: float | None, language: str, digits: int = 1) -> str:
    """As it is written there; nothing for None."""
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    return text.replace(".", ",") if language == "ru" else text
