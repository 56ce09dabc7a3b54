"""The model types of transformers at tiny sizes, with both attention implementations where a type has both.

Each class is given by name; its kind says what goes in. All models share the sizes below, where their
configuration has such a field: they differ from each other, so that no two axes are alike by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from types import NoneType
from typing import Any

import torch

from benchmarks.models import Case

SIZES = """
vocab_size=100 hidden_size=64 num_hidden_layers=2 num_attention_heads=4 intermediate_size=144 num_key_value_heads=2
head_dim=16 max_position_embeddings=40 image_size=32 patch_size=8 pad_token_id=0 bos_token_id=1 eos_token_id=2
decoder_start_token_id=1 projection_dim=28 d_model=64 encoder_layers=2 decoder_layers=2 encoder_attention_heads=4
decoder_attention_heads=4 encoder_ffn_dim=144 decoder_ffn_dim=136 max_source_positions=40 max_target_positions=40
d_ff=144 d_kv=16 num_layers=2 num_decoder_layers=2 num_heads=4 num_frames=6 num_experts=6 num_local_experts=6
n_routed_experts=6 num_experts_per_tok=2 moe_top_k=2 moe_intermediate_size=40 shared_expert_intermediate_size=56
"""
BATCH, SEQUENCE, TARGET = {0: "batch"}, {0: "batch", 1: "sequence"}, {0: "batch", 1: "target"}
OTHER = {"batch": 5, "sequence": 11, "target": 9}


@dataclass(frozen=True)
class Input:
    """One input: how it is made, and which of its dims vary."""

    make: Callable[[], torch.Tensor]
    dynamic: Mapping[int, str]


def _ids(length: int, low: int = 3) -> torch.Tensor:
    return torch.randint(low, 100, (3, length))


KINDS: dict[str, dict[str, Input]] = {
    "tokens": {"input_ids": Input(partial(_ids, 7), SEQUENCE)},
    "words": {"input_ids": Input(partial(_ids, 12), BATCH)},
    "masked": {
        "input_ids": Input(partial(_ids, 7), SEQUENCE),
        "attention_mask": Input(partial(torch.ones, 3, 7, dtype=torch.int64), SEQUENCE),
    },
    "translation": {
        "input_ids": Input(partial(_ids, 7), SEQUENCE),
        "decoder_input_ids": Input(partial(_ids, 6), TARGET),
    },
    "masked translation": {
        "input_ids": Input(partial(_ids, 7), SEQUENCE),
        "attention_mask": Input(partial(torch.ones, 3, 7, dtype=torch.int64), SEQUENCE),
        "decoder_input_ids": Input(partial(_ids, 6), TARGET),
    },
    "image": {"pixel_values": Input(partial(torch.randn, 3, 3, 32, 32), BATCH)},
    "photo": {"pixel_values": Input(partial(torch.randn, 3, 3, 64, 64), BATCH)},
    "video": {"pixel_values": Input(partial(torch.randn, 3, 6, 3, 32, 32), BATCH)},
    "picture and text": {
        "input_ids": Input(partial(_ids, 7), SEQUENCE),
        "pixel_values": Input(partial(torch.randn, 3, 3, 32, 32), BATCH),
    },
    "towers": {
        "input_ids": Input(partial(_ids, 7), SEQUENCE),
        "pixel_values": Input(partial(torch.randn, 3, 3, 32, 32), BATCH),
    },
    "wave": {"input_values": Input(partial(torch.randn, 3, 500), BATCH)},
    "spectrum": {"input_values": Input(partial(torch.randn, 3, 34, 20), BATCH)},
    "speech": {
        "input_features": Input(partial(torch.randn, 3, 22, 20), BATCH),
        "decoder_input_ids": Input(partial(_ids, 6), TARGET),
    },
    "whisper": {
        "input_features": Input(partial(torch.randn, 3, 20, 22), BATCH),
        "decoder_input_ids": Input(partial(_ids, 6), TARGET),
    },
    "frames": {"input_features": Input(partial(torch.randn, 3, 22, 20), BATCH)},
    "page": {
        "input_ids": Input(partial(_ids, 7), SEQUENCE),
        "bbox": Input(lambda: torch.arange(84).view(3, 7, 4), SEQUENCE),
    },
    "series": {"past_values": Input(partial(torch.randn, 3, 30, 5), BATCH)},
}

MODELS: dict[str, str] = {
    "masked": """
        AlbertForMaskedLM BertForMaskedLM CamembertForMaskedLM ConvBertForMaskedLM Data2VecTextForMaskedLM
        DebertaForMaskedLM DebertaV2ForMaskedLM DistilBertForMaskedLM ElectraForMaskedLM ErnieForMaskedLM
        EsmForMaskedLM EuroBertForMaskedLM IBertForMaskedLM MegatronBertForMaskedLM MobileBertForMaskedLM
        ModernBertForMaskedLM MPNetForMaskedLM RemBertForMaskedLM RobertaForMaskedLM RobertaPreLayerNormForMaskedLM
        RoFormerForMaskedLM SqueezeBertForMaskedLM XLMRobertaForMaskedLM XLMRobertaXLForMaskedLM XLMWithLMHeadModel
    """,
    "words": """
        BigBirdForMaskedLM CanineForSequenceClassification FNetForMaskedLM FunnelForMaskedLM LongformerForMaskedLM
        NystromformerForMaskedLM XLNetLMHeadModel YosoForMaskedLM MambaForCausalLM Mamba2ForCausalLM
        FalconMambaForCausalLM RwkvForCausalLM RecurrentGemmaForCausalLM JambaForCausalLM
    """,
    "page": "LayoutLMForMaskedLM LiltForTokenClassification",
    "tokens": """
        ApertusForCausalLM ArceeForCausalLM BioGptForCausalLM BloomForCausalLM CodeGenForCausalLM CohereForCausalLM
        Cohere2ForCausalLM CTRLLMHeadModel DiffLlamaForCausalLM Ernie4_5ForCausalLM Exaone4ForCausalLM
        FalconForCausalLM GemmaForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM GlmForCausalLM Glm4ForCausalLM
        GPT2LMHeadModel GPTBigCodeForCausalLM GPTJForCausalLM GPTNeoForCausalLM GPTNeoXForCausalLM
        GraniteForCausalLM HeliumForCausalLM LlamaForCausalLM MinistralForCausalLM MistralForCausalLM
        MptForCausalLM NemotronForCausalLM OlmoForCausalLM Olmo2ForCausalLM OpenAIGPTLMHeadModel OPTForCausalLM
        PersimmonForCausalLM PhiForCausalLM Phi3ForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM SmolLM3ForCausalLM
        StableLmForCausalLM Starcoder2ForCausalLM XGLMForCausalLM
        MixtralForCausalLM OlmoeForCausalLM PhimoeForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM
        GraniteMoeForCausalLM DeepseekV2ForCausalLM DeepseekV3ForCausalLM GptOssForCausalLM Llama4ForCausalLM
        Lfm2ForCausalLM
    """,
    "translation": """
        BartForConditionalGeneration BlenderbotForConditionalGeneration BlenderbotSmallForConditionalGeneration
        LEDForConditionalGeneration M2M100ForConditionalGeneration MarianMTModel
        MBartForConditionalGeneration MT5ForConditionalGeneration MvpForConditionalGeneration
        PegasusForConditionalGeneration PLBartForConditionalGeneration ProphetNetForConditionalGeneration
        T5ForConditionalGeneration UMT5ForConditionalGeneration
    """,
    "masked translation": "LongT5ForConditionalGeneration SwitchTransformersForConditionalGeneration",
    "whisper": "WhisperForConditionalGeneration",
    "speech": "Speech2TextForConditionalGeneration",
    "wave": """
        Data2VecAudioForCTC HubertForCTC SEWForCTC UniSpeechForCTC UniSpeechSatForCTC Wav2Vec2ForCTC
        Wav2Vec2ConformerForCTC WavLMForCTC
    """,
    "spectrum": "ASTForAudioClassification",
    "frames": "Wav2Vec2BertForCTC",
    "image": """
        BeitForImageClassification Data2VecVisionForImageClassification DeiTForImageClassification
        Dinov2ForImageClassification Dinov2WithRegistersForImageClassification DINOv3ViTModel DPTForDepthEstimation
        IJepaForImageClassification PixtralVisionModel SiglipForImageClassification ViTForImageClassification
        ViTMSNForImageClassification YolosForObjectDetection
    """,
    "photo": """
        BitForImageClassification ConvNextForImageClassification ConvNextV2ForImageClassification
        CvtForImageClassification DINOv3ConvNextModel EfficientNetForImageClassification
        FocalNetForImageClassification GLPNForDepthEstimation HieraForImageClassification
        LevitForImageClassification MobileNetV1ForImageClassification MobileNetV2ForImageClassification
        MobileViTForImageClassification MobileViTV2ForImageClassification PoolFormerForImageClassification
        PvtForImageClassification PvtV2ForImageClassification RegNetForImageClassification ResNetForImageClassification
        SegformerForImageClassification SegformerForSemanticSegmentation SwiftFormerForImageClassification
        SwinForImageClassification Swinv2ForImageClassification Swin2SRForImageSuperResolution
    """,
    "video": "TimesformerForVideoClassification VideoMAEForVideoClassification VivitForVideoClassification",
    "towers": """
        AlignModel AltCLIPModel BlipModel ChineseCLIPModel CLIPModel GroupViTModel OwlViTModel Owlv2Model SiglipModel
    """,
    "picture and text": "CLIPSegForImageSegmentation ViltForQuestionAnswering",
    "series": "PatchTSTForPrediction PatchTSMixerForPrediction",
}
"""By what goes in, the class that stands for each model type."""

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
STAGES: dict[str, Any] = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 24, 32, 40]}
FOUR: dict[str, Any] = {**STAGES, "num_hidden_layers": 4}
SWIN: dict[str, Any] = {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4]}
SEGFORMER: dict[str, Any] = {**STAGES, "num_attention_heads": [1, 2, 4, 5], "decoder_hidden_size": 48}
WAVE: dict[str, Any] = {
    "conv_dim": [32, 36, 40],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 20, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
DEEPSEEK = {
    **LATENT,
    "num_key_value_heads": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "first_k_dense_replace": 1,
}

OPTIONS: dict[str, dict[str, Any]] = {
    "AlbertForMaskedLM": {"embedding_size": 32},
    "ElectraForMaskedLM": {"embedding_size": 32},
    "MobileBertForMaskedLM": {"embedding_size": 32, "intra_bottleneck_size": 48, "true_hidden_size": 48},
    "RemBertForMaskedLM": {"input_embedding_size": 32, "output_embedding_size": 48},
    "SqueezeBertForMaskedLM": {"embedding_size": 64},
    "XLMWithLMHeadModel": {"emb_dim": 64, "n_layers": 2, "n_heads": 4},
    "CanineForSequenceClassification": {"num_hash_buckets": 50, "local_transformer_stride": 4},
    "FunnelForMaskedLM": {"block_sizes": [1, 1], "d_inner": 144, "d_head": 16},
    "LongformerForMaskedLM": {"attention_window": [4, 4]},
    "XLNetLMHeadModel": {"d_head": 16, "d_inner": 144, "use_mems_eval": False},
    "MambaForCausalLM": {"state_size": 12, "time_step_rank": 10},
    "FalconMambaForCausalLM": {"state_size": 12, "time_step_rank": 10},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 16, "state_size": 12, "n_groups": 2, "chunk_size": 8},
    "RwkvForCausalLM": {"rescale_every": 0},
    "RecurrentGemmaForCausalLM": {"num_hidden_layers": 3, "attention_window_size": 8},
    "LayoutLMForMaskedLM": {"max_2d_position_embeddings": 90},
    "LiltForTokenClassification": {"hidden_size": 72, "max_2d_position_embeddings": 90, "channel_shrink_ratio": 2},
    "CodeGenForCausalLM": {"rotary_dim": 8},
    "GPTJForCausalLM": {"rotary_dim": 8},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "MinistralForCausalLM": {"rope_parameters": ROPE, "sliding_window": 5},
    "MistralForCausalLM": {"sliding_window": 5},
    "DeepseekV2ForCausalLM": {**DEEPSEEK, "topk_method": "greedy", "n_shared_experts": 1},
    "DeepseekV3ForCausalLM": DEEPSEEK,
    "Llama4ForCausalLM": {"intermediate_size_mlp": 72},
    "JambaForCausalLM": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 12,
        "mamba_dt_rank": 10,
        "use_mamba_kernels": False,
    },
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "LEDForConditionalGeneration": {"attention_window": 4},
    "LongT5ForConditionalGeneration": {"local_radius": 3},
    "ProphetNetForConditionalGeneration": {"num_encoder_layers": 2, "num_encoder_attention_heads": 4},
    "SwitchTransformersForConditionalGeneration": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "WhisperForConditionalGeneration": {"num_mel_bins": 20, "max_source_positions": 11},
    "Speech2TextForConditionalGeneration": {"input_feat_per_channel": 20, "conv_channels": 36},
    **dict.fromkeys(
        "Data2VecAudioForCTC HubertForCTC SEWForCTC UniSpeechForCTC UniSpeechSatForCTC WavLMForCTC".split(), WAVE
    ),
    "Wav2Vec2ForCTC": {**WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "Wav2Vec2ConformerForCTC": WAVE,
    "ASTForAudioClassification": {"max_length": 34, "num_mel_bins": 20},
    "Wav2Vec2BertForCTC": {"feature_projection_input_dim": 20},
    "DPTForDepthEstimation": {
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [16, 24, 32, 40],
        "fusion_hidden_size": 24,
    },
    "YolosForObjectDetection": {"image_size": [32, 32], "num_detection_tokens": 10},
    "BitForImageClassification": {**STAGES, "embedding_size": 16, "num_groups": 4},
    "ConvNextForImageClassification": FOUR,
    "ConvNextV2ForImageClassification": FOUR,
    "DINOv3ConvNextModel": STAGES,
    "CvtForImageClassification": {"embed_dim": [16, 24, 32], "depth": [1, 2, 3], "num_heads": [1, 2, 4]},
    "EfficientNetForImageClassification": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    "FocalNetForImageClassification": {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [1, 1, 2, 1]},
    "GLPNForDepthEstimation": SEGFORMER,
    "HieraForImageClassification": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1]},
    "LevitForImageClassification": {
        "image_size": 64,
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "key_dim": [8, 8, 8],
        "depths": [1, 2, 1],
        "patch_size": 16,
    },
    "MobileNetV1ForImageClassification": {"depth_multiplier": 0.5},
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.5},
    "MobileViTForImageClassification": {
        "image_size": 64,
        "patch_size": 2,
        "hidden_sizes": [48, 56, 64],
        "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 80],
    },
    "MobileViTV2ForImageClassification": {"image_size": 64, "patch_size": 2, "width_multiplier": 0.5},
    "PoolFormerForImageClassification": STAGES,
    "PvtForImageClassification": {**SEGFORMER, "image_size": 64, "num_attention_heads": [1, 2, 4, 5]},
    "PvtV2ForImageClassification": {**SEGFORMER, "image_size": 64, "num_attention_heads": [1, 2, 4, 5]},
    "RegNetForImageClassification": {**STAGES, "embedding_size": 12, "groups_width": 8},
    "ResNetForImageClassification": {**STAGES, "embedding_size": 12},
    "SegformerForImageClassification": {**SEGFORMER, "num_hidden_layers": 4},
    "SegformerForSemanticSegmentation": {**SEGFORMER, "num_hidden_layers": 4},
    "SwiftFormerForImageClassification": {"image_size": 64, "embed_dims": [16, 24, 32, 40], "depths": [1, 1, 2, 1]},
    "SwinForImageClassification": {**SWIN, "window_size": 4},
    "Swinv2ForImageClassification": {**SWIN, "window_size": 4},
    "Swin2SRForImageSuperResolution": {**SWIN, "patch_size": 1, "window_size": 4, "depths": [2, 2]},
    "VivitForVideoClassification": {"tubelet_size": [2, 8, 8]},
    "AlignModel": {
        "projection_dim": 80,
        "vision_config": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    },
    "CLIPSegForImageSegmentation": {"extract_layers": [0, 1], "reduce_dim": 24},
    "PatchTSTForPrediction": {"context_length": 30, "num_input_channels": 5, "patch_length": 6, "patch_stride": 6},
    "PatchTSMixerForPrediction": {"context_length": 30, "num_input_channels": 5, "patch_length": 6, "patch_stride": 6},
}
"""What a class's configuration needs besides the sizes, or in other sizes."""


class Similarities(torch.nn.Module):
    """Of two towers that also give all they computed on the way, what they are asked for."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """``[texts, images]``."""
        logits: torch.Tensor = self.model(input_ids=input_ids, pixel_values=pixel_values).logits_per_text
        return logits


def cases(only: str = "") -> list[Case]:
    """All of them, in the order of their kinds, or the one of this name."""
    chosen = [(name, kind) for kind, names in MODELS.items() for name in names.split() if _is(only, name)]
    return [case for name, kind in chosen for case in _both(name, kind) if only in ("", case.name)]


def _is(only: str, name: str) -> bool:
    """Is a type wanted? Those that are not are not imported, which takes seconds."""
    return not only or only.startswith(f"{name} (")


def _both(name: str, kind: str) -> Iterator[Case]:
    """A model type once for each attention implementation it has."""
    import transformers

    model = getattr(transformers, name)
    ways = ("sdpa", "eager") if model._supports_sdpa else ("eager",)
    for way in ways:
        yield _case(model, kind, way)


def _case(model: Any, kind: str, attention: str) -> Case:
    torch.manual_seed(0)
    given = KINDS[kind]
    inputs = {name: one.make() for name, one in given.items()}
    dynamic = {name: one.dynamic for name, one in given.items()}
    named = {word for dims in dynamic.values() for word in dims.values()}
    other = {word: OTHER[word] for word in OTHER if word in named}
    title = f"{model.__name__} ({attention})"
    build = partial(_build, model, attention)
    return Case(title, (lambda: Similarities(build())) if kind == "towers" else build, inputs, dynamic, other)


def _build(model: Any, attention: str) -> torch.nn.Module:
    sizes, options = _sizes(model.config_class), OPTIONS.get(model.__name__, {})
    inner = {
        name: {**sizes[name], **given} for name, given in options.items() if name in model.config_class.sub_configs
    }
    config = model.config_class(**{**sizes, "num_labels": 5, **options, **inner})
    config._attn_implementation = attention
    built: torch.nn.Module = model(config)
    return built


def _sizes(config: Any) -> dict[str, Any]:
    """The sizes that a configuration, and each configuration in it, has number fields for."""
    defaults = {field.name: field.default for field in fields(config)}
    known = dict(word.split("=") for word in SIZES.split())
    found: dict[str, Any] = {
        name: int(size)
        for name, size in known.items()
        if isinstance(defaults.get(config.attribute_map.get(name, name), ()), int | NoneType)
    }
    return found | {name: _sizes(part) for name, part in config.sub_configs.items() if is_dataclass(part)}
