"""Ids in addresses, in upper or lower case."""

from __future__ import annotations

from django.urls import register_converter
from django.urls.converters import UUIDConverter

CONVERTER = "id"


class IdConverter(UUIDConverter):
    regex = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


register_converter(IdConverter, CONVERTER)
