from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import pydantic
import pytest
from pydantic import BaseModel, SecretBytes, SecretStr, field_validator

from dispatcher import ArgumentsInvalid, Dispatcher, ResultUnserialisable, Secret, Undecodable
from dispatcher.order import HiddenBytes
from dispatcher.payload import Payload
from state.machine import Flag

HIDDEN = "hunter2-SECRET"


class Login(BaseModel):
    user: str
    password: SecretStr
    inner: Login | None = None


class Plain(BaseModel):
    user: str


@dataclass
class Card:
    number: SecretStr


@dataclass(slots=True)
class Slotted:
    pin: SecretBytes = field(default_factory=lambda: SecretBytes(b"1234"))


class Strict(BaseModel):
    token: SecretStr

    @field_validator("token")
    @classmethod
    def check(cls, value: SecretStr) -> SecretStr:
        raise ValueError(f"do not like {value.get_secret_value()}")


class Marked(BaseModel):
    inside: Annotated[str, Secret]


def payload(function: Callable[..., Any]) -> Payload:
    return Payload("shop.f", function)


def test_secrets_reach_the_handler_intact_at_any_depth() -> None:
    def f(
        a: SecretStr,
        b: SecretBytes,
        c: Login,
        d: list[Login | Plain],
        e: dict[str, Card],
        g: Slotted,
        h: pydantic.Secret[int],
        i: Annotated[str, Secret],
        j: SecretStr | None,
        k: Marked,
        open_: int = 0,
    ) -> None: ...

    login = Login(user="u", password=SecretStr("p1"), inner=Login(user="v", password=SecretStr("p2")))
    args = (
        SecretStr("s"),
        SecretBytes(b"\xff\x00"),
        login,
        [login, Plain(user="w")],
        {"x": Card(SecretStr("4111"))},
        Slotted(),
        pydantic.Secret[int](7),
        "plain",
        None,
        Marked(inside="deep"),
    )
    p = payload(f)
    stored = p.encode(args, {"open_": 5})
    assert b"****" not in stored
    _, values = p.decode(stored)
    assert tuple(values.values()) == (*args, 5)
    assert p.secret_names == ("a", "b", "c", "d", "e", "g", "h", "i", "j", "k")
    assert set(p.secret_values(args, {})) == {"s", "�\0", "p1", "p2", "4111", "1234", "7", "plain", "deep"}


def test_functions_without_secrets_have_none() -> None:
    def f(a: str, b: Plain) -> None: ...

    p = payload(f)
    assert p.secret_names == ()
    assert p.secret_values(("x",), {"b": Plain(user="y")}) == []
    assert not p.secret_result


def test_texts_beside_a_secret_are_not_redacted() -> None:
    def f(login: Login) -> None: ...

    login = Login(user="visible", password=SecretStr(HIDDEN))
    assert payload(f).secret_values((login,), {}) == [HIDDEN]


def test_errors_about_secrets_do_not_quote_the_users_validators() -> None:
    def f(a: Strict, b: Annotated[dict[str, int], Secret]) -> None: ...

    with pytest.raises(ArgumentsInvalid) as caught:
        payload(f).encode(({"token": HIDDEN}, {HIDDEN: "x"}), {})
    assert HIDDEN not in str(caught.value) + repr(caught.value.errors)
    assert "a: not valid (secret)" in str(caught.value)
    with pytest.raises(Undecodable) as undecodable:
        payload(f).decode(json.dumps({"a": {"token": HIDDEN}, "b": {HIDDEN: "x"}}).encode())
    assert HIDDEN not in str(undecodable.value)


def test_secret_results() -> None:
    def f() -> Login: ...  # type: ignore[empty-body]

    p = payload(f)
    assert p.secret_result
    login = Login(user="u", password=SecretStr(HIDDEN))
    assert p.decode_result(p.encode_result(login)) == login
    with pytest.raises(ResultUnserialisable) as caught:
        p.encode_result({"user": "u", "password": {HIDDEN: 1}})
    assert HIDDEN not in str(caught.value)


def test_the_row_says_what_to_mask_and_logs_cannot_print_the_arguments() -> None:
    app = Dispatcher("shop")

    @app.task(name="login")
    def login(user: str, password: SecretStr) -> SecretStr: ...  # type: ignore[empty-body]

    call = login.call("u", password=SecretStr(HIDDEN))
    assert call.asked.meta == '{"secret":["password"]}'
    assert call.asked.flags == Flag.SECRET_RESULT
    assert isinstance(call.args, HiddenBytes)
    assert HIDDEN not in repr(call.args) + repr([call.args]) + repr(call) + repr(call.statement()[1])
    assert bytes(call.args).find(HIDDEN.encode()) > 0


def test_classes_of_the_user_are_left_alone() -> None:
    def f(login: Login) -> None: ...

    login = Login(user="u", password=SecretStr(HIDDEN))
    payload(f).encode((login,), {})
    assert HIDDEN not in login.model_dump_json()
