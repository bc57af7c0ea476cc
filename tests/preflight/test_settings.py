# Copyright (c) monai-sa2va contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from __future__ import annotations

import json

import pytest
from monai.bundle import ConfigParser

from monai_sa2va.errors import ConfigError
from monai_sa2va.preflight.settings import Settings, read_settings, running_parser


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(
        json.dumps({"a": 1, "b": "$@a + 1", "cache_rate": 1.0, "num_workers": 8, "part": {"c": "@cache_rate"}})
    )
    return path


def test_values_are_evaluated_and_may_be_missing():
    settings = Settings(ConfigParser({"a": 1, "b": "$@a + 1"}))
    assert settings.value("b") == 2
    assert settings.value("c") is None
    assert settings.value("c", 3) == 3
    assert settings.has("b")
    assert not settings.has("c")


def test_later_files_and_overrides_replace_keys(file, tmp_path):
    (tmp_path / "d.json").write_text('{"a": 5}')
    assert read_settings([file, tmp_path / "d.json"]).value("b") == 6
    assert read_settings([file], {"a": 7, "part#c": 2}).value("b") == 8
    assert read_settings([file], {"part#c": 2}).value("part") == {"c": 2}


def test_nothing_is_cached_for_a_check_but_known(file):
    settings = read_settings([file])
    assert settings.value("part#c") == 0.0
    assert settings.value("num_workers") == 0
    assert settings.notes == {"cache_rate": 1.0, "num_workers": 8}


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        (None, {}, "--config_file {file} does not exist"),
        ("{", {}, "--config_file {file} can't be read: "),
        ("{}", {"a#b": 1}, "unknown key a#b: there is nothing that it could be a part of"),
    ],
)
def test_what_cant_be_read_is_named(tmp_path, content, overrides, message):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_settings([path], overrides)
    assert str(caught.value).startswith("[CONFIG] " + message.format(file=path))


def test_no_file_is_refused():
    with pytest.raises(ConfigError, match="name one with --config_file"):
        read_settings([])


def test_the_running_parser_is_the_one_that_evaluates():
    found = []
    parser = ConfigParser({"run": "$@note(@get())", "note": found.append, "get": running_parser})
    parser.get_parsed_content("run")
    assert found == [parser]
    with pytest.raises(ConfigError, match="expressions of a configuration"):
        running_parser()
