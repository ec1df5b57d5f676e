"""Compiled kernels are loaded only if they are whole, and if nobody else can write to them."""

import os
import time
from pathlib import Path

import pytest
import torch

from pyro_vae.svi.cpu import kernels

LATER = 3600.0


def whole(path, started):
    kernels.require_whole(path, time.time() + started)


def test_a_compiled_file_is_whole_if_it_is_as_it_was_when_it_was_compiled(tmp_path):
    path = tmp_path / "a.so"
    path.write_bytes(b"compiled")
    with pytest.raises(kernels.DamagedError):  # whoever compiled it was interrupted before it said so
        whole(path, LATER)
    whole(path, -LATER)  # compiled by this process
    whole(path, LATER)
    path.write_bytes(b"comp")
    with pytest.raises(kernels.DamagedError, match=r"a\.so"):
        whole(path, LATER)


@pytest.mark.parametrize("entry", ["", "ab", "ab/a.so"])
def test_what_others_can_write_to_is_not_loaded(tmp_path, entry):
    path = tmp_path / "ab" / "a.so"
    path.parent.mkdir()
    path.touch()
    for folder in (tmp_path, path.parent):
        folder.chmod(0o755)
    path.chmod(0o755)
    kernels.require_private(path, tmp_path)
    (tmp_path / entry).chmod(0o777)
    with pytest.raises(PermissionError, match="another user can write"):
        kernels.require_private(path, tmp_path)


def test_a_folder_of_another_user_is_not_trusted(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    if tmp_path.stat().st_uid == 0:  # whom all trust
        original = Path.lstat
        status = list(original(tmp_path))
        status[4] = 12345
        monkeypatch.setattr(Path, "lstat", lambda self: os.stat_result(status))
    with pytest.raises(PermissionError, match="another user can write"):
        kernels.require_private(tmp_path, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="no kernels on this processor")
def test_a_kernel_that_was_cut_off_is_compiled_again(tmp_path, monkeypatch):
    from torch._inductor import config

    tmp_path.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    arguments, source = ["float*", "int64_t"], 'extern "C" void kernel(float* out, long value) { out[0] = value; }'
    with config.patch(cpp_cache_precompile_headers=False):
        kernel = kernels._compiled(arguments, f"#include <cstdint>\n{source}")
        path = Path(kernel.__self__.__file__)
        content, copy = path.read_bytes(), path.with_name("copy")
        copy.write_bytes(content[:100])
        copy.rename(path)  # another file, as what is loaded must stay
        os.utime(path, (0, 0))
        kernel = kernels._compiled(arguments, f"#include <cstdint>\n{source}")
    assert len(path.read_bytes()) > 100
    out = torch.zeros(1)
    kernel(out, 3)
    assert out == 3
