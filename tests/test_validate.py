from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.errors import UserError
from stages.validate import main

COMMITTED = Path(__file__).parents[1] / "params.yaml"


def write_params(**sections: dict[str, Any]) -> None:
    """Writes the committed params.yaml with other values into the working directory."""
    params = yaml.safe_load(COMMITTED.read_text())
    for name, values in sections.items():
        params[name] = params.get(name, {}) | values
    Path("params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.usefixtures("tmp_dir")
def test_sound_params_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    write_params(
        prune={"sparsities": [0.5, 0.9], "epochs": 4, "learning_rate": 0.003},
        shrink={"macs_shares": [0.5]},
        study={"models": ["first", "third"]},
    )

    main()

    assert capsys.readouterr().out == "params.yaml: sound; 2 models x 4 augmentations, 3 steps of compression\n"


@pytest.mark.usefixtures("tmp_dir")
def test_a_section_that_no_stage_reads_is_refused() -> None:
    write_params(shrinc={"epochs": 1})

    with pytest.raises(UserError, match="shrinc: unknown key; did you mean 'shrink'"):
        main()


@pytest.mark.usefixtures("tmp_dir")
def test_what_a_tool_is_told_does_not_stop_the_pipeline() -> None:
    write_params(search={"candidate": "another-none", "trials": "many"})

    main()


@pytest.mark.usefixtures("tmp_dir")
def test_a_share_that_a_studied_model_cannot_be_shrunk_to_is_refused_before_any_training() -> None:
    write_params(shrink={"macs_shares": [0.5, 0.001]})

    with pytest.raises(UserError, match=r"shrink.macs_shares: .* got 0.001, but with every count a multiple of 16"):
        main()
