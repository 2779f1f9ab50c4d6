"""The device that a training runs on is named, and so is a GPU that it cannot use."""

import pytest

from ser.finetune import device


@pytest.mark.parametrize("reason", ["there is none", "hidden", "too old"])
def test_a_gpu_that_torch_cannot_use_is_reported(tmp_path, monkeypatch, capsys, reason):
    monkeypatch.setattr(device, "CARDS", tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # as with an old driver
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if reason != "there is none":
        (tmp_path / "nvidia0").touch()
    if reason == "hidden":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device.announce(device.make_accelerator("fp32"), "w2v_finetune")
    out, err = capsys.readouterr()
    assert out.startswith("w2v_finetune: on cpu, ") and out.endswith(", fp32\n")
    if reason == "too old":
        assert err.startswith("w2v_finetune: not on the GPU, which torch cannot use: ")
        assert err.count("\n") == 1
    else:
        assert err == ""
