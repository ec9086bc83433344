"""Which programs thresholds may be set on, and which nothing was ever set on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from diagnosis import (
    programs,
    programs_fresh,
    programs_later,
    programs_pictures,
    programs_replicas,
    programs_sequences,
    programs_tables,
)
from diagnosis.programs_pictures import PHOTOS

if TYPE_CHECKING:
    from collections.abc import Callable

    from diagnosis.programs import Program

SEEN: Final[dict[str, Callable[[], Program]]] = {
    program.__name__: program
    for program in (
        programs.digits_mlp,
        programs.digits_residual,
        programs.sign_lstm,
        programs_pictures.digits_autoencoder,
        programs_sequences.text_average,
        programs_tables.rings,
        programs_tables.friedman,
        programs_pictures.digits_two_inputs,
        programs_sequences.small_transformer,
        programs_tables.imbalanced,
        programs_sequences.ratings,
        programs_tables.iris,
        programs_replicas.digits_replicas,
    )
}
"""Programs that thresholds may be set on."""
UNSEEN: Final[dict[str, Callable[[], Program]]] = {
    program.__name__: program
    for program in (
        programs.wine,
        programs.cancer,
        programs.diabetes,
        programs.echo_conv,
        programs.digits_layernorm,
        programs_pictures.digits_segment,
        programs_sequences.count_gru,
        programs_sequences.tagging,
        programs_pictures.digits_two_heads,
        programs_pictures.digits_fine_tuned,
        programs_pictures.digits_patches,
        programs_tables.normalised,
        programs_tables.robust,
        programs_tables.gan,
        programs_replicas.waves_replicas,
        programs_fresh.digits_siamese,
        programs_fresh.activity_conv,
        programs_fresh.demand_gru,
        programs_fresh.income_wide_deep,
        programs_fresh.digits_squeeze,
        programs_later.reviews_bidirectional,
        programs_later.digits_denoise,
        programs_later.circuit_nadam,
        programs_later.beats_dilated,
        programs_later.genres,
        programs_later.shapes_inception,
        programs_later.prices_mixed,
        programs_later.bells_conv_gru,
        programs_later.textures_residual,
        *((programs_pictures.photos,) if PHOTOS in os.environ else ()),
    )
}
"""Programs that are held out."""
