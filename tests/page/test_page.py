"""The page of a prediction server, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pandas as pd
from wards import Served, furnish, patients, posted, served, trained, write_wards

from metabayfl import page as pages
from metabayfl.personal import PersonalStrategy
from metabayfl.serve import database, tokens
from tiny import digits, write_digits
from tiny import patients as few_patients

if TYPE_CHECKING:
    from playwright.sync_api import Page

Hospital = tuple[Served, str]
Open, Shoot = Callable[..., Any], Callable[..., None]


def sign_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")


def learned(page: Page, label: str) -> None:
    """Wait until the page says that the posterior has learned this label."""
    page.locator(".moved b").get_by_text(f"Learned: {label}.", exact=True).wait_for()


def picture(page: Page, name: str) -> str:
    """The drawing in a card, as it stands in the page."""
    return page.locator(f"#{name} svg").inner_html()


def test_a_label_given_on_the_page_moves_the_stored_posterior_and_the_picture(hospital: Hospital, open_page: Open, shoot: Shoot) -> None:
    server, token = hospital
    page = open_page(server.address)
    sign_in(page, token)
    page.locator("#reliability .bin").first.wait_for()
    page.locator("#history .span").first.wait_for()
    shoot(page, "page_client", full_page=True, clip={"x": 0, "y": 0, "width": 1180, "height": 800})
    before, drawn = server.stored("north"), picture(page, "reliability")
    case = page.locator("article.case").get_attribute("data-case")
    waiting = page.locator(".case-list button").count()
    page.get_by_role("button", name="home", exact=True).focus()  # by keyboard alone from here
    page.keyboard.press("Enter")
    learned(page, "home")
    version, digest = server.stored("north")
    assert version == before[0] + 1
    assert digest != before[1]
    page.get_by_text(f"version {version}", exact=True).wait_for()
    assert page.locator("#digest").get_attribute("title") == digest
    assert picture(page, "reliability") != drawn
    assert page.get_by_role("row", name=re.compile("^home label")).locator("td").count() == 3  # the bar, before, after
    assert page.locator(".split").count() == 2
    shoot(page.locator("section", has=page.locator("article")), "page_label")
    assert page.locator(".case-list button").count() == waiting - 1
    assert page.locator(f'.case-list [data-case="{case}"]').count() == 0
    page.keyboard.press("Enter")  # the focus is on "Next case"
    page.get_by_text("What is it really?").wait_for()
    assert page.locator("article.case").get_attribute("data-case") != case


def test_the_operator_sees_those_in_need_first(ward_strategy: PersonalStrategy, tmp_path: Path, open_page: Open, shoot: Shoot) -> None:
    with served(ward_strategy, tmp_path / "store") as server:
        server.token("newcomer")
        for seed, (client, labels) in enumerate((("harbour", 60), ("north", 20))):
            furnish(server, client, seed=seed + 1, labels=labels)
        token = furnish(server, "south", seed=3)
        wrong = posted(patients(np.random.default_rng(5), 60))
        server.post(token, "/v1/clients/south/update", {**wrong, "labels": ["home" if label == "ward" else "ward" for label in wrong["labels"]]})
        page = open_page(server.address)
        sign_in(page, server.operator)
        page.locator("tbody tr").nth(3).wait_for()
        names = page.locator("tbody th").all_inner_texts()
        assert names[0] == "south"
        assert names[-1] == "newcomer"
        shoot(page, "page_overview", clip={"x": 0, "y": 0, "width": 1180, "height": 500})
        page.get_by_role("link", name="south").click()
        page.get_by_text("calibration:").wait_for()
        page.get_by_role("link", name="All clients").click()
        page.get_by_role("link", name="newcomer").click()
        page.get_by_role("alert").wait_for()
        assert "newcomer" in page.get_by_role("alert").inner_text()


def test_the_token_of_another_client_sees_nothing(hospital: Hospital, open_page: Open) -> None:
    server, token = hospital
    asked: list[str] = []
    page = open_page(server.address)
    page.on("request", lambda request: asked.append(request.url))
    sign_in(page, server.token("south"))
    page.get_by_text("south", exact=True).first.wait_for()
    page.evaluate("location.hash = '#/client/north'")
    page.get_by_text("this token is not that client's").wait_for()
    for found in ("article", ".case-list button", "#reliability .bin", "#history .span", ".tile", "#digest"):
        assert page.locator(found).count() == 0
    assert page.evaluate("[location.href, document.cookie, localStorage.length]") == [f"{server.address}/#/client/north", "", 0]
    assert not any(token in url or "token" in url for url in asked)


def test_a_wrong_token_and_one_that_was_revoked_lead_back_to_signing_in(hospital: Hospital, open_page: Open) -> None:
    server, token = hospital
    page = open_page(server.address)
    sign_in(page, "no-token")
    page.get_by_text("send a valid token").wait_for()
    sign_in(page, token)
    page.get_by_role("button", name="home", exact=True).wait_for()
    with closing(database.connect(server.store)) as connection, database.transaction(connection):
        tokens.revoke(connection, token.partition(".")[0])
    page.get_by_role("heading", name="Sign in").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_refusal_is_shown_as_its_one_sentence(hospital: Hospital, open_page: Open) -> None:
    server, token = hospital
    page = open_page(server.address)
    sign_in(page, token)
    case = page.locator("article.case").get_attribute("data-case")
    page.route("**/cases?**", lambda route: None)  # this page hears no more of its cases
    server.post(token, f"/v1/clients/north/cases/{case}/label", {"label": "home"})
    page.get_by_role("button", name="ward", exact=True).click()
    page.locator(".case").get_by_role("alert").wait_for()
    assert "has the label 'home' already" in page.locator(".case").get_by_role("alert").inner_text()
    assert page.get_by_role("button", name="ward", exact=True).is_enabled()


def test_signing_out_forgets_the_token(hospital: Hospital, open_page: Open) -> None:
    server, token = hospital
    page = open_page(server.address)
    sign_in(page, token)
    page.reload()
    page.get_by_role("heading", name="north").wait_for()  # kept for this tab
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_it_fits_a_phone_in_the_dark(hospital: Hospital, open_page: Open, shoot: Shoot) -> None:
    server, token = hospital
    page = open_page(server.address, viewport={"width": 390, "height": 844}, color_scheme="dark")
    sign_in(page, token)
    page.locator("#reliability .bin").first.wait_for()
    page.locator("article.case").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shoot(page, "page_phone")
    named = "(nodes) => nodes.every((node) => node.textContent.trim() || node.ariaLabel || node.labels?.length)"
    assert page.locator("button, a, input, [role=img]").evaluate_all(named)


HOSTILE = ('<img src=x onerror="window.struck=1">', '"><script>window.struck=1</script>', "javascript:window.struck=1//'`${window.struck=1}")


def test_hostile_names_stay_text(tmp_path: Path, open_page: Open) -> None:
    rng = np.random.default_rng(0)
    frame = patients(rng, 400)
    frame["pain"] = frame["pain"].map(dict(zip(("none", "mild", "severe"), HOSTILE, strict=True)))
    frame["stay"] = frame["stay"].map(dict(zip(("home", "ward", "intensive care"), HOSTILE, strict=True)))
    frame = frame.rename(columns={"age": HOSTILE[0], "oxygen": "__proto__"}).assign(clinic=[f"c{at % 10}" for at in range(400)])
    with served(trained(tmp_path, write_wards(tmp_path, frame)), tmp_path / "store") as server:
        token = server.token("c-0")
        server.post(token, "/v1/clients/c-0/personalize", {**posted(frame.drop(columns="clinic")[:20]), "refer_share": 0.5})
        server.post(token, "/v1/clients/c-0/predict", {"rows": posted(frame.drop(columns="clinic")[20:80])["rows"]})
        page = open_page(server.address)
        sign_in(page, token)
        page.get_by_role("button", name=HOSTILE[0], exact=True).click()
        learned(page, HOSTILE[0])
        assert page.locator(".features tbody th").all_inner_texts()[0] == HOSTILE[0]
        assert page.locator("#view img, #view script, #view [onerror]").count() == 0
        assert page.evaluate("window.struck") is None


def test_images_are_drawn(tmp_path: Path, open_page: Open, shoot: Shoot) -> None:
    x, y = digits(0, 90)
    config = write_digits(tmp_path, ("rounds = 3", "rounds = 40"), ('generator = "full"', 'generator = "full"\nbody_lr = 1e-2'))
    with served(trained(tmp_path, config), tmp_path / "store") as server:
        token = server.token("writer")
        server.post(token, "/v1/clients/writer/personalize", {"rows": x[:30].tolist(), "labels": y[:30], "refer_share": 0.5})
        server.post(token, "/v1/clients/writer/predict", {"rows": x[30:].tolist()})
        page = open_page(server.address)
        sign_in(page, token)
        canvas = page.locator("article canvas")
        canvas.wait_for()
        seen = canvas.evaluate("(node) => [...node.getContext('2d').getImageData(0, 0, 8, 8).data].filter((_, at) => at % 4 === 0)")
        rows = [[round(255 * value / row.max()) for value in row.ravel()] for row in x[30:]]
        assert any(np.abs(np.subtract(seen, row)).max() <= 1 for row in rows)
        shoot(page.locator("section", has=page.locator("article")), "page_image")


def test_numbers_are_labelled(dose_strategy: PersonalStrategy, tmp_path: Path, open_page: Open) -> None:
    own: pd.DataFrame = few_patients(hospitals=1, rows=60, seed=3)
    rows, doses = own[["age", "sex"]].to_dict("records"), own["dose"].tolist()
    with served(dose_strategy, tmp_path / "store") as server:
        token = server.token("h-1")
        server.post(token, "/v1/clients/h-1/personalize", {"rows": rows[:10], "labels": doses[:10], "refer_share": 0.6})
        server.post(token, "/v1/clients/h-1/update", {"rows": rows[10:20], "labels": doses[10:20]})
        server.post(token, "/v1/clients/h-1/predict", {"rows": rows[20:]})
        page = open_page(server.address)
        sign_in(page, token)
        page.locator("#reliability .bin").first.wait_for()
        page.get_by_label("dose").fill("180.5")
        page.get_by_role("button", name="Learn it").click()
        learned(page, "180.5")
        assert server.stored("h-1")[0] == 3
        assert page.get_by_role("row", name=re.compile("^dose")).locator("td").count() == 4


INSIDE = r"<script(?! type=\"module\" src=)| style=|<style| on\w+=\"|innerHTML|outerHTML|insertAdjacent|eval\(|document\.write"
"""What would be a script, a style, or markup where data could stand."""


def test_every_file_comes_with_a_policy_and_no_page_has_a_script_inside(hospital: Hospital) -> None:
    server, _ = hospital
    for path in ("/", *(f"/static/{name}" for name in pages.files())):
        answer = httpx.get(server.address + path)
        policy: dict[str, Any] = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert answer.status_code == 200
        assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
    for name, data in pages.files().items():
        text = data.decode()
        assert not re.search(INSIDE, text), name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text), name
    assert httpx.get(server.address + "/static/../app.py").status_code == 404
    assert httpx.get(server.address + "/static/%2e%2e%2fserve/app.py").status_code == 404
