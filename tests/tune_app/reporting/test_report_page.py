"""The page itself: links that hold data, tables that fit on paper, text that cannot become markup."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pandas as pd

from tune_app.reporting.page import (
    PAPER_CHARACTERS,
    Gallery,
    Image,
    Page,
    Plot,
    Section,
    Table,
    csv_link,
    part_html,
    render,
)
from tune_app.reporting.plots import figure, joined
from tune_app.results.pictures import png

FRAME = pd.DataFrame({"name": ["a", 'b "c", <d>'], "mean_dice": [0.25, float("nan")], "share": ["12%", "-"]})


def test_a_csv_link_holds_the_data_itself() -> None:
    link = csv_link("scores", "Scores", FRAME)
    encoded = re.search(r"base64,([\w+/=]+)", link)
    assert encoded
    assert base64.b64decode(encoded[1]).decode() == FRAME.to_csv(index=False, lineterminator="\n")
    assert 'download="scores.csv"' in link


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    html = part_html(Table(key="t", title="T", frame=FRAME))
    assert '<th scope="col">name</th><th scope="col" class="number">mean Dice</th>' in html
    assert '<td class="number" data-of="mean Dice">0.2500</td>' in html
    assert '<td class="number" data-of="share">12%</td>' in html
    assert "&lt;d&gt;" in html


def test_a_wide_table_is_laid_out_over_several_that_each_name_the_row() -> None:
    wide = pd.DataFrame({"name": ["trial"]} | {f"dice/class_{i:02d}": [0.5] for i in range(30)})
    html = part_html(Table(key="t", title="T", frame=wide))
    tables = html.split("<table>")[1:]
    assert len(tables) > 1
    assert all('<td data-of="name">trial</td>' in table for table in tables)
    assert sum(table.count("<th ") - 1 for table in tables) == 30
    assert max(len(re.sub(r"<[^>]*>", "   ", table.split("</thead>")[0])) for table in tables) < 3 * PAPER_CHARACTERS


def test_columns_that_may_go_do_so_before_a_table_is_split() -> None:
    frame = pd.DataFrame({"name": ["n" * 60], "minutes": ["m" * 60], "status": ["s" * 60]})
    html = part_html(Table(key="t", title="T", frame=frame, droppable=["minutes"]))
    assert html.count("<table>") == 1
    assert "mmm" not in re.sub(r"base64,[\w+/=]+", "", html)


def test_a_plot_cannot_end_its_script() -> None:
    drawn = figure([{"type": "scatter", "x": [1], "y": [2], "text": ["</script><b>"]}])
    html = part_html(Plot(key="p", title="P", alt="words", figure=drawn, data=FRAME))
    assert html.count("</script>") == 1
    assert json.loads(html.split('data-plot="p">')[1].split("</script>")[0])["data"][0]["text"] == ["</script><b>"]


def test_a_gallery_heads_rows_and_columns() -> None:
    image = Image(png=png(np.zeros((2, 2), np.uint8)), alt="grey")
    gallery = Gallery(
        key="g",
        title="G",
        alt="words",
        columns=["crop"],
        rows=[("EM", [image])],
        data=FRAME,
        legend=[("#000000", "nuc")],
    )
    html = part_html(gallery)
    assert '<th scope="col">crop</th>' in html
    assert '<th scope="row">EM</th>' in html
    assert '<img alt="grey" src="data:image/png;base64,' in html


def test_one_script_draws_all_plots() -> None:
    sections = [Section(key="a", title="A", nothing="Nothing."), Section(key="b", title="B", text=["<i>"])]
    html = render(Page(title="T & U", facts=[("best", "<x>")], sections=sections, notices=["beware"]))
    assert html.count("<script>") == 2
    assert "T &amp; U" in html
    assert "&lt;i&gt;" in html
    assert html.index('id="a"') < html.index('id="b"')


def test_curves_are_joined_with_gaps() -> None:
    assert joined([([1, 2], [3.0, 4.0], "a"), ([1], [5.0], "b")]) == {
        "x": [1, 2, None, 1, None],
        "y": [3.0, 4.0, None, 5.0, None],
        "text": ["a", "a", "a", "b", "b"],
    }
