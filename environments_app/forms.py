"""Fields of forms: limits, with sizes such as `256m` and the settings' own rules, and texts that
are kept exactly, for programs and their output.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from unfold.widgets import UnfoldAdminTextInputWidget

from codeexec.sizes import format_size
from environments_app.limits import LIMITS, Limit
from environments_app.models import Environment


class EnvironmentForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Environment
        fields = "__all__"  # noqa: DJ007 -- the admin's fieldsets name them

    def clean_enabled(self) -> bool:
        enabled = bool(self.cleaned_data["enabled"])
        if enabled and not self.initial.get("enabled") and not self.instance.has_image:
            raise ValidationError("It has no image yet: build it before it is enabled.")
        return enabled


class LimitField(forms.CharField):
    """One limit or maximum, as it is written in the YAML. Empty: the setting's value."""

    def __init__(self, limit: Limit, *, is_maximum: bool, **options: Any) -> None:
        self.limit = limit
        options.setdefault("required", False)
        options.setdefault("widget", UnfoldAdminTextInputWidget)
        options.setdefault("help_text", _help_text(limit, is_maximum=is_maximum))
        super().__init__(**options)

    def prepare_value(self, value: Any) -> Any:
        return value if value is None or isinstance(value, str) else shown(self.limit, value)

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text:
            return None
        try:
            return self.limit.parse(text)
        except ValueError as error:
            allowed = self.limit.setting.allowed
            raise ValidationError(f"'{text}' is wrong; allowed: {allowed}.") from error

    def has_changed(self, initial: Any, data: Any) -> bool:
        return (self.prepare_value(initial) or "") != (data or "").strip()


def shown(limit: Limit, value: float) -> str:
    """A limit's value as an operator writes it: `256m`, `0.5`."""
    return format_size(int(value)) if limit.is_size else f"{value:g}"


def limit_field(column: str, label: str) -> LimitField | None:
    """The form's field for a column that holds a limit or a maximum; None for any other."""
    for limit in LIMITS:
        if column in (limit.field, limit.maximum_field):
            return LimitField(limit, is_maximum=column == limit.maximum_field, label=label)
    return None


def _help_text(limit: Limit, *, is_maximum: bool) -> str:
    allowed = limit.setting.allowed
    if is_maximum:
        return f"The most a client can ask for: {allowed}. If it is empty, the limit itself."
    default = shown(limit, limit.default())
    return (
        f"{limit.setting.meaning} Allowed: {allowed}. If it is empty, {limit.setting.name} counts, "
        f"which is {default}."
    )


class ExactText(forms.CharField):
    """A text that is kept with its last line end, and with \n where browsers send \r\n."""

    widget = forms.Textarea

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"strip": False})

    def to_python(self, value: Any) -> str:
        return str(super().to_python(value)).replace("\r\n", "\n")

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(initial, self.to_python(data))
