"""One model of every family of timm, untrained: each module's smallest, and the architectures that share a module."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.models import Case

FAMILIES = """
beit_base_patch16_224 beitv2_base_patch16_224 halonet26t botnet26t_256 lambda_resnet26t eca_botnext26ts_256 mobileone_s1
repvgg_a0 gernet_s regnetz_b16 resnext26ts gcresnext26ts bat_resnext26ts cait_xxs24_224 coat_tiny coat_lite_tiny
convit_tiny convmixer_768_32 convnext_atto convnext_zepto_rms convnextv2_atto cpubone_nano crossvit_tiny_240 csatv2
cs3darknet_s cspresnet50 cspnext_tiny davit_tiny deepseek_vit_412m deit_tiny_patch16_224 deit_tiny_distilled_patch16_224
densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_b0_gn
mobilenetv1_100 mobilenetv2_035 mnasnet_small mixnet_s tinynet_e fbnetc_100 mobilenet_edgetpu_100 tf_efficientnet_lite0
tf_efficientnetv2_b0 efficientvim_m1 efficientvit_b0 efficientvit_l1 efficientvit_m0 eva02_tiny_patch14_224
vit_tiny_patch16_dinov3_qkvb vit_small_patch16_rope_mixed_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny
gemma4_vit_167m ghostnet_050 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s
levit_conv_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 coatnet_pico_rw_224 maxxvit_rmlp_nano_rw_256
coatnext_nano_rw_224 poolformer_s12 convformer_s18 caformer_s18 gmlp_ti16_224 gmixer_12_224 resmlp_12_224 mixer_s16_224
mobilenetv3_small_050 lcnet_035 mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium_075 fbnetv3_b mobilenetv5_base
mobilevit_xxs mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0
nfnet_l0 nf_resnet26 pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 regnety_002 repghostnet_050
repvit_m1 res2next50 res2net50_14w_8s resnest14d resnet10t seresnet18 ecaresnet26t resnet50_gn resnetblur18 resnetrs50
resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_patch16_224 tresnet_m twins_svt_small twins_pcpvt_small vgg11 visformer_tiny vit_tiny_patch16_224
vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_rpn_224 vit_srelpos_small_patch16_224 samvit_base_patch16_224
vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41 xcit_nano_12_p16_224
""".split()

SMALLER: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"depth": 2, "img_size": 56},
    "gemma4_vit_167m": {"depth": 2, "img_size": 96},
    "qwen3_vit_88m": {"depth": 2, "img_size": 96},
}
"""Models that are large only by being deep; the same blocks, fewer of them."""

WHOLE = ("halonet26t", "bat_resnext26ts")
"""Models whose blocks divide no smaller image."""


def cases(only: str = "") -> list[Case]:
    """All families, in the order of their modules, or the one of this name."""
    return [_case(name) for name in FAMILIES if only in ("", name)]


def _case(name: str) -> Case:
    import timm

    options = SMALLER.get(name, {})
    config = timm.get_pretrained_cfg(name)
    assert config is not None, name
    pixels = options.get("img_size") or config.input_size[-1]
    if not config.fixed_input_size and "img_size" not in options and name not in WHOLE:
        pixels = min(pixels, 128)
    torch.manual_seed(0)
    images = {"x": torch.randn(3, 3, pixels, pixels)}
    build = partial(timm.create_model, name, pretrained=False, **options)
    return Case(name, build, images, {"x": {0: "batch"}}, {"batch": 5})
