"""Checkpoints of the real architectures, shrunk until they take milliseconds."""

import json
from pathlib import Path

TINY = {
    "conv_dim": [8, 8],
    "conv_kernel": [40, 8],
    "conv_stride": [20, 8],
    "num_feat_extract_layers": 2,
    "conv_bias": True,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "initializer_range": 0.2,
}
PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "do_normalize": True,
    "sampling_rate": 16000,
}


TINY_WHISPER = {
    "model_type": "whisper",
    "num_mel_bins": 8,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "max_source_positions": 50,  # 1 s
    "max_target_positions": 8,
    "vocab_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
    "classifier_proj_size": 16,
    "init_std": 0.2,
}
WHISPER_PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "sampling_rate": 16000,
}


def write_checkpoint(folder: Path, **changes) -> Path:
    """A wav2vec 2.0 without weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "wav2vec2", "feat_extract_norm": "group", **TINY, **changes})
    )
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def write_whisper(folder: Path, **changes) -> Path:
    """A Whisper without weights, whose window is 1 s."""
    folder.mkdir(parents=True)
    config = {**TINY_WHISPER, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    preprocessor = {**WHISPER_PREPROCESSOR, "feature_size": config["num_mel_bins"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder
