from __future__ import annotations

from pathlib import Path

import pytest

from dssm.errors import UserError
from dssm.secrets import hidden_in, hidden_in_arguments, hide_logins, hide_secrets, is_secret, read_secret, secrets_of


def test_a_secret_is_read_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_PLACE", " hush ")
    (tmp_path / "secret").write_text("hush\n")
    assert read_secret("a.b", "A_PLACE", None, "token") == "hush"
    assert read_secret("a.b", None, str(tmp_path / "secret"), "token") == "hush"
    assert read_secret("a.b", None, None, "token") is None


@pytest.mark.parametrize(
    ("env", "file", "kind", "message"),
    [
        ("NO_SUCH", None, "token", "a.b.token_env: the environment has no NO_SUCH; set it"),
        ("EMPTY", None, "", "a.b.env: EMPTY is empty; expected a secret"),
        (None, "/no/such", "password", "a.b.password_file: /no/such can't be read (No such file or directory)"),
    ],
)
def test_a_place_without_a_secret(
    env: str | None, file: str | None, kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY", " ")
    with pytest.raises(UserError) as raised:
        read_secret("a.b", env, file, kind)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("password", True),
        ("spark.hadoop.fs.s3a.secret.key", True),
        ("spark.hadoop.fs.s3a.access.key", True),
        ("spark.hadoop.javax.jdo.option.ConnectionPassword", True),
        ("spark.hadoop.fs.azure.account.key.x.blob.core.windows.net", True),
        ("spark.hadoop.fs.azure.sas.c.x", True),
        ("spark.hadoop.fs.gs.auth.service.account.private.key", True),
        ("AN_API_KEY", True),
        ("spark.hadoop.fs.azure.sasl", False),
        ("token_env", False),
        ("index.sinks.redis.password_file", False),
        ("spark.security.secret.file", False),
        ("spark.executor.memory", False),
        ("spark.kubernetes.container.image.pullSecrets", False),
        ("spark.kubernetes.driver.secrets.aws", False),
        ("spark.kubernetes.executor.secrets.aws", False),
        ("spark.kubernetes.driver.secretKeyRef.AWS_SECRET_ACCESS_KEY", False),
        ("spark.kubernetes.driverEnv.AWS_SECRET_ACCESS_KEY", True),
        ("spark.executorEnv.AWS_SECRET_ACCESS_KEY", True),
        ("spark.kubernetes.authenticate.driver.oauthTokenFile", False),
        ("spark.kubernetes.authenticate.driver.oauthToken", True),
        ("spark.kubernetes.kerberos.tokenSecret.itemKey", False),
        ("spark.security.credentials.hive.enabled", False),
        ("spark.kerberos.renewal.credentials", False),
        ("spark.authenticate.secretBitLength", False),
        ("spark.authenticate.secret", True),
        ("spark.hadoop.fs.s3a.aws.credentials.provider", False),
        ("spark.hadoop.fs.s3a.delegation.tokens.enabled", False),
        ("spark.hadoop.fs.s3a.session.token", True),
        ("spark.hadoop.hadoop.security.credential.provider.path", False),
        ("spark.hadoop.fs.azure.account.keyprovider.x.dfs.core.windows.net", False),
        ("spark.hadoop.fs.azure.account.key.provider.dfs.core.windows.net", True),  # of an account of that name
        ("spark.hadoop.fs.azure.sas.token.provider.type", False),
        ("spark.hadoop.fs.azure.account.oauth2.client.secret", True),
        ("spark.ssl.keyStorePassword", True),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", False),
    ],
)
def test_names_that_may_hold_a_secret(key: str, expected: bool) -> None:
    assert is_secret(key) == expected


def test_values_are_hidden_at_any_depth_and_their_places_are_not() -> None:
    given = {
        "sinks": {"near": {"password": "hush", "password_env": "REDIS", "url": "redis://me:hush@a:6379/0"}},
        "tokens": ["hush", "hush"],
        "secrets": {"spark.a.key": {"env": "A", "file": None}},
        "epochs": 3,
    }
    assert hidden_in("", given) == {
        "sinks": {"near": {"password": "(not shown)", "password_env": "REDIS", "url": "redis://(not shown)@a:6379/0"}},
        "tokens": ["(not shown)", "(not shown)"],
        "secrets": {"spark.a.key": {"env": "A", "file": None}},
        "epochs": 3,
    }


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("--config", "--config"),
        ("train.epochs=3", "train.epochs=3"),
        ("a.password=hush", "a.password=(not shown)"),
        ("a={kind: redis, password: hush, prefix: x}", "a={kind: redis, password: (not shown), prefix: x}"),
        ("a={b: {token_env: T}}", "a={b: {token_env: T}}"),
        ("--set=index.sinks.near.password=hush", "--set=index.sinks.near.password=(not shown)"),
        ("--set=train.epochs=3", "--set=train.epochs=3"),
        ("spark.conf.spark.security.credentials.hive.enabled=false",) * 2,
        ("url=redis://me:hush@a/0", "url=redis://(not shown)@a/0"),
        ("m=jdbc:mysql://a/m?user=me&password=hush&x=1", "m=jdbc:mysql://a/m?user=me&password=(not shown)&x=1"),
        ("m=jdbc:derby:/m;user=me;password=hush", "m=jdbc:derby:/m;user=me;password=(not shown)"),
        ("spark.a.token={hush", "spark.a.token=(not shown)"),  # no YAML
    ],
)
def test_arguments_are_shown_without_secrets(argument: str, shown: str) -> None:
    assert hidden_in_arguments([argument]) == [shown]


def test_logins_in_a_text() -> None:
    assert hide_logins("see http://me:hush@a:1/b and http://a/b") == "see http://(not shown)@a:1/b and http://a/b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://me:pa55@host:6379/0 is down", "redis://(not shown)@host:6379/0 is down"),
        ("redis://:pa55@host", "redis://(not shown)@host"),
        ("https://host/a:b@c", "https://host/a:b@c"),
        ("spark.ssl.keyPassword=abc and spark.x=1", "spark.ssl.keyPassword=(not shown) and spark.x=1"),
        ('{"token": "abc", "rows": 3}', '{"token": "(not shown)", "rows": 3}'),
        ("fs.s3a.secret.key: abc", "fs.s3a.secret.key: (not shown)"),
        ("AWS_SECRET_ACCESS_KEY=a/b+c", "AWS_SECRET_ACCESS_KEY=(not shown)"),
        ("features.token_id: no token in the window", "features.token_id: no token in the window"),
        ("vocabularies done: token: 31 ids", "vocabularies done: token: 31 ids"),
        ("?access_token=abc&rows=3", "?access_token=(not shown)&rows=3"),
        ("hunter2222 was refused", "(not shown) was refused"),
    ],
)
def test_secrets_in_running_text(text: str, expected: str) -> None:
    assert hide_secrets(text, ["hunter2222"]) == expected


def test_variables_named_as_secrets_are_known_by_their_values() -> None:
    environment = {
        "REDIS_PASSWORD": "longest-one",
        "MILVUS_TOKEN": "short1",
        "DSSM_TOKEN_SET": "true",
        "HOME": "/home/x",
    }
    assert secrets_of(environment) == ["longest-one", "short1"]
