"""The options of a command and their help, from the signature of its main, by tyro."""

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import is_dataclass
from types import NoneType
from typing import Annotated, Any

import docstring_parser
import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

REGISTRY = ConstructorRegistry()


def call_with_options(main: Callable[..., None], name: str) -> None:
    """Call a function with the options of the command line.

    Args:
        main: the function; its docstring becomes the help text.
        name: the command's, without its folder.

    Raises:
        SystemExit: status 0 after ``--help``, 2 if an option is wrong.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):  # tyro does not wrap a description
        about = docstring_parser.parse(inspect.getdoc(main) or "").description or ""
        for paragraph in about.split("\n\n"):
            width = shutil.get_terminal_size().columns
            print(textwrap.fill(" ".join(paragraph.split()), width), end="\n\n")
    markers = (tyro.conf.OmitArgPrefixes,)
    tyro.cli(main, prog=name, description="", config=markers, registry=REGISTRY)


@REGISTRY.primitive_rule
def _none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
    """Write ``none`` for Python's None, and understand both."""
    if info.type is not NoneType:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="none",
        choices=("none", "None"),
        instance_from_str=lambda words: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda value: ["none"],
    )


@REGISTRY.struct_rule
def _parameters(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Make an option of each parameter of a function and each field of a dataclass."""
    if not (inspect.isfunction(info.type) or is_dataclass(info.type)):
        return None
    explained = {
        each.arg_name: " ".join((each.description or "").split())
        for each in docstring_parser.parse(inspect.getdoc(info.type) or "").params
    }
    parameters = inspect.signature(info.type, eval_str=True).parameters
    options = []
    for name, each in parameters.items():
        # The default of a function's parameter may be a dataclass, whose fields then hold theirs.
        default = getattr(info.default, name) if is_dataclass(info.default) else each.default
        options.append(
            StructFieldSpec(
                name=name,
                type=_shown(each.replace(default=default)),
                default=tyro.MISSING_NONPROP if default is each.empty else default,
                helptext=explained.get(name),
            )
        )
    first = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_ONLY]

    def call(**given: Any) -> Any:
        return info.type(*[given.pop(name) for name in first], **given)

    return StructConstructorSpec(call, tuple(options))


def _shown(parameter: inspect.Parameter) -> Any:
    """Annotate a parameter's type with how its values and its default read in the help."""
    kind = parameter.annotation
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, set()))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return kind
    metavar = re.sub(r"\{?\[(.+?) \[.*", r"\1 ...", spec.metavar)  # [PATH [PATH ...]]
    metavar = re.sub(r"\{.{60,}\}", "NAME", metavar)  # would fill lines
    if parameter.default is None:
        metavar = metavar.removeprefix("none|")
    marks: tuple[Any, ...] = ()
    if parameter.kind is parameter.POSITIONAL_ONLY:
        marks = (tyro.conf.Positional,)
        if parameter.default is not parameter.empty:
            metavar = f"[{metavar}]"
    shown = tyro.conf.arg(
        metavar=None if kind is bool else metavar,
        help_behavior_hint=lambda label: (
            "" if label in ("", "none", "False") else f"(default: {label})"
        ),
    )
    return Annotated[(kind, shown, *marks)]
