"""The server of `condiff web`: the same bytes as the command line, no access for others."""

import base64
import io
import json
import threading
import zipfile

import numpy as np
import pytest
import skimage.data
from PIL import Image

from condiff.cli import main
from condiff.conditions.table import apply
from condiff.models.info import read_model_info
from tests.conftest import make_photo

pytest.importorskip("starlette", reason="the page needs starlette")
pytest.importorskip("httpx2", reason="starlette's client needs httpx2")

from starlette.testclient import TestClient

from condiff.web import sessions as tabs
from condiff.web.app import Server, WebSettings, distinct
from condiff.web.controls import describe, read_edits
from condiff.web.drawer import LINES_DRAWN
from condiff.web.security import HEADERS, is_loopback
from condiff.web.sessions import Gone, Sessions, clean_name

JSON = {"content-type": "application/json"}
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def models(tiny_folder, sketch_folder):
    return {"model": str(tiny_folder), "drawing_model": str(sketch_folder)}


@pytest.fixture(scope="module")
def server(models):
    return Server(WebSettings(**models))


@pytest.fixture(scope="module")
def client(server):
    with TestClient(server.build(), base_url="http://localhost:7860") as client:
        yield client


@pytest.fixture
def session(client):
    number = client.post("/api/session", headers=JSON).json()["session"]
    yield f"/api/{number}"
    client.post(f"/api/{number}/end", headers=JSON)


def events_of(response):
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def send(client, session, content, name="photo.jpg", kind="photo"):
    url = f"{session}/{kind}/upload"
    return events_of(client.post(url, params={"name": name}, content=content, headers=BYTES))


def order(client, session, upload, **values):
    values = {"seed": 3, "sampling": {"steps": 2}, **values}
    return events_of(client.post(f"{session}/make/{upload}", json=values))


def find(events, key):
    found = [event[key] for event in events if key in event]
    assert found, events
    return found[0]


def download(client, session, upload, result):
    events = events_of(client.post(f"{session}/write/{upload}/{result}", headers=JSON))
    name = find(events, "name")
    url = f"{session}/files/{upload}/{find(events, 'file')}"
    response = client.get(url, params={"name": name})
    assert f'filename="{name}"' in response.headers["content-disposition"]
    return name, response.content


def encode(image, format="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def deep_png():
    import cv2

    pixels = np.random.default_rng(0).integers(0, 65535, (40, 52), np.uint16)
    return cv2.imencode(".png", cv2.GaussianBlur(pixels, (0, 0), 4))[1].tobytes()


def tagged_jpeg():
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "A camera", 6
    return encode(make_photo(60, 44).convert("L"), exif=exif.tobytes(), quality=83)


STROKES = Image.new("RGBA", (60, 44))
STROKES.paste((40, 120, 50, 255), (10, 10, 30, 20))
MASK = Image.new("RGBA", (120, 88), "white")  # opaque, as a browser's canvas has it
MASK.paste((0, 0, 0, 255), (0, 0, 60, 88))


@pytest.mark.parametrize(
    ("name", "content", "values", "flags"),
    [
        ("grey.jpg", tagged_jpeg(), {}, []),
        ("deep.png", deep_png(), {"look": "vivid"}, ["--look", "vivid"]),
        (
            "photo.webp",
            encode(make_photo(60, 44), "WEBP"),
            {"edits": {"saturation": 1.4, "temperature": 12, "invert": True}},
            ["--saturation", "1.4", "--temperature", "12", "--invert"],
        ),
        (
            "photo.tif",
            encode(make_photo(60, 44), "TIFF"),
            {"sampling": {"steps": 3, "guidance_scale": 2.0, "variety": 0.5}},
            ["--guidance-scale", "2.0", "--variety", "0.5"],
        ),
        (
            "see-through.png",
            encode(STROKES, "PNG"),
            {"edits": {"background": "white", "as_is": True}},
            ["--background", "white", "--as-is"],
        ),
        ("strokes.jpg", encode(make_photo(60, 44)), {"strokes": STROKES}, ["--hints"]),
        ("mask.jpg", encode(make_photo(60, 44)), {"mask": MASK}, ["--mask"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_download_is_the_file_of_the_command_line(
    client, session, models, tmp_path, name, content, values, flags
):
    for picture in values.keys() & {"strokes", "mask"}:
        png = encode(values[picture], "PNG")
        (tmp_path / f"{picture}.PNG").write_bytes(png)
        values = {picture: base64.b64encode(png).decode()}
        flags = [*flags, str(tmp_path / f"{picture}.PNG")]
    upload = find(send(client, session, content, name), "upload")
    result = find(order(client, session, upload, **values), "result")
    shown, made = download(client, session, upload, result)

    (tmp_path / name).write_bytes(content)
    steps = str(values.get("sampling", {}).get("steps", 2))
    command = ["colorize", str(tmp_path / name), "-m", models["model"], "--seed", "3"]
    assert main([*command, "--steps", steps, *flags]) == 0
    assert made == (tmp_path / shown).read_bytes()


def test_every_alternative_is_the_command_lines_of_its_seed(client, session, models, tmp_path):
    content = encode(make_photo(60, 44))
    upload = find(send(client, session, content), "upload")
    events = order(client, session, upload, samples=3, others={"variety": 0.25})
    results = [event for event in events if "result" in event]
    assert [event["seed"] for event in results] == [3, 4, 5]
    uncertainty = client.get(f"{session}/files/{upload}/{find(events, 'uncertainty')}")
    assert Image.open(io.BytesIO(uncertainty.content)).size == (60, 44)

    (tmp_path / "photo.jpg").write_bytes(content)
    command = ["colorize", str(tmp_path / "photo.jpg"), "-m", models["model"], "--steps", "2"]
    assert main([*command, "--seed", "5", "--variety", "0.25"]) == 0
    _, made = download(client, session, upload, results[2]["result"])
    assert made == (tmp_path / "photo.color.jpg").read_bytes()


def test_a_preview_looks_like_the_file(client, session):
    framed = Image.new("RGB", (1900, 1300), "black")
    framed.paste(make_photo(1700, 1100), (100, 100))
    upload = find(send(client, session, encode(framed, quality=95)), "upload")
    events = order(client, session, upload)
    preview = client.get(f"{session}/files/{upload}/{find(events, 'preview')}").content
    _, made = download(client, session, upload, find(events, "result"))
    shown = Image.open(io.BytesIO(preview))
    assert shown.size == (1600, 1095)
    whole = Image.open(io.BytesIO(made)).convert("RGB").resize(shown.size, Image.Resampling.BOX)
    off = np.abs(np.asarray(shown, float) - np.asarray(whole, float)).mean()
    assert off < 3, off


def test_strokes_give_a_draft_at_once_and_the_sample_is_kept(client, session, server):
    upload = find(send(client, session, encode(make_photo(60, 44))), "upload")
    order(client, session, upload)
    strokes = base64.b64encode(encode(STROKES, "PNG")).decode()
    events = order(client, session, upload, strokes=strokes)
    kinds = [next(iter(event)) for event in events]
    assert kinds.index("draft") < kinds.index("step")
    kept = server.sessions.find(session.rsplit("/", 1)[1]).find(upload).results.values()
    assert [result.settings.edits.hints for result in kept] == [(), ()]  # their pictures are large
    again = order(client, session, upload, strokes=strokes, edits={"saturation": 0.5})
    assert not any("step" in event for event in again)


def test_a_mask_leaves_a_part_grey_and_is_kept_packed(client, session, server):
    content, mask = encode(make_photo(60, 44)), base64.b64encode(encode(MASK, "PNG")).decode()
    upload = find(send(client, session, content), "upload")
    plain = order(client, session, upload)
    events = order(client, session, upload, mask=mask)
    assert not any("step" in event for event in events)  # the sample is that without a mask
    assert find(events, "result") != find(plain, "result")
    preview = client.get(f"{session}/files/{upload}/{find(events, 'preview')}").content
    pixels = np.asarray(Image.open(io.BytesIO(preview)).convert("RGB"), float)
    chroma = pixels.max(axis=2) - pixels.min(axis=2)
    assert chroma[:, :16].mean() < 3 < chroma[:, 36:].mean() / 2  # a JPEG's, which bleeds
    kept = server.sessions.find(session.rsplit("/", 1)[1]).find(upload).results.values()
    assert [result.settings.edits.mask for result in kept] == [None, None]


@pytest.mark.parametrize("mask", [Image.new("L", (10, 90)), None])
def test_a_wrong_mask_gives_a_sentence(client, session, mask):
    upload = find(send(client, session, encode(make_photo(60, 44))), "upload")
    content = b"no PNG" if mask is None else encode(mask, "PNG")
    values = {"seed": 3, "mask": base64.b64encode(content).decode()}
    response = client.post(f"{session}/make/{upload}", json=values)
    said = json.loads(response.text.splitlines()[-1])["error"]
    assert ("aspect" if mask else "cannot read") in said


def test_a_drawing_gives_the_pictures_of_the_command_line(client, session, models, tmp_path):
    drawing = Image.new("L", (96, 80), 255)
    drawing.paste(0, (20, 20, 70, 23))
    drawing.paste(0, (20, 20, 23, 60))
    content = encode(drawing, "PNG")
    upload = find(send(client, session, content, "sketch.png", "drawing"), "upload")
    events = order(client, session, upload, kind="drawing", samples=2)
    results = [event for event in events if "result" in event]
    frames = [event["frame"] for event in events if "frame" in event]
    assert len(frames) == len(set(frames)) == 2 * 3  # noise and two steps of each
    assert client.get(f"{session}/files/{upload}/{frames[1]}").status_code == 200

    (tmp_path / "sketch.png").write_bytes(content)
    command = ["render", str(tmp_path / "sketch.png"), "-m", models["drawing_model"]]
    assert main([*command, "--steps", "2", "--seed", "4"]) == 0
    _, made = download(client, session, upload, results[1]["result"])
    assert made == (tmp_path / "sketch.render.png").read_bytes()


def test_a_photo_among_the_drawings_becomes_its_lines(client, session):
    photo = Image.fromarray(skimage.data.coffee()).resize((1500, 1000))
    events = send(client, session, encode(photo), "coffee.jpg", "drawing")
    assert find(events, "remarks") == [LINES_DRAWN]
    assert (find(events, "width"), find(events, "height")) == (1024, 683)
    upload = find(events, "upload")
    shown = client.get(f"{session}/files/{upload}/{find(events, 'before')}")
    lines = np.asarray(Image.open(io.BytesIO(shown.content)).convert("L"))
    expected = apply("pencil", np.asarray(photo.resize((1024, 683), Image.Resampling.BOX)))
    assert np.corrcoef(lines.ravel(), expected[..., 0].ravel())[0, 1] > 0.8
    assert find(order(client, session, upload, kind="drawing", samples=1), "result")


def test_colours_on_a_drawing_are_the_command_lines_hints(client, session, models, tmp_path):
    drawing, colors = Image.new("L", (96, 80), 255), Image.new("RGBA", (48, 40))
    drawing.paste(0, (20, 20, 70, 23))
    colors.paste((200, 30, 30, 255), (5, 20, 30, 26))
    files = {"sketch.png": encode(drawing, "PNG"), "colors.png": encode(colors, "PNG")}
    upload = find(send(client, session, files["sketch.png"], "sketch.png", "drawing"), "upload")
    strokes = base64.b64encode(files["colors.png"]).decode()
    events = order(client, session, upload, kind="drawing", strokes=strokes)
    _, made = download(client, session, upload, find(events, "result"))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = ["render", str(tmp_path / "sketch.png"), "-m", models["drawing_model"]]
    command += ["--hints", str(tmp_path / "colors.png")]
    assert main([*command, "--steps", "2", "--seed", "3"]) == 0
    assert made == (tmp_path / "sketch.render.png").read_bytes()


def test_a_zip_holds_the_files_under_distinct_names_and_the_reasons(client, session):
    rows = []
    for name in ("a.jpg", "A.JPG", "b.png"):
        upload = find(send(client, session, encode(make_photo(40, 30)), name), "upload")
        rows.append([upload, find(order(client, session, upload), "result")])
    events = events_of(
        client.post(f"{session}/zip", json={"results": rows, "failed": ["bad.jpg: no photo"]})
    )
    packed = client.get(f"{session}/files/{events[-2]['upload']}/{events[-2]['file']}").content
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert archive.read("failed.txt") == b"bad.jpg: no photo\n"
        _, alone = download(client, session, *rows[2])
        assert archive.read("b.color.png") == alone
    assert names == ["a.color.jpg", "A.color-2.JPG", "b.color.png", "failed.txt"]


@pytest.mark.parametrize(
    ("content", "says"), [(b"no photo at all", "photo.jpg"), (b"", "photo.jpg"), (b"%PDF-1", "PDF")]
)
def test_a_bad_file_gives_a_sentence_without_a_path(client, session, server, content, says):
    (event,) = [e for e in send(client, session, content) if "error" in e]
    assert says in event["error"]
    assert str(server.sessions.root) not in event["error"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sampling": {"steps": 0}}, "steps"),
        ({"sampling": {"stepz": 3}}, "stepz"),
        ({"edits": {"saturation": 9}}, "saturation"),
        ({"edits": {"saturation": "much"}}, "saturation"),
        ({"edits": {"mask": "/etc/passwd"}}, "mask"),
        ({"edits": {"hints": "/etc/passwd"}}, "hints"),
        ({"look": "loud"}, "loud"),
        ({"seed": -1}, "seed"),
        ({"samples": 99}, "Alternatives"),
        ({"strokes": "***"}, "PNG"),
        ({"edits": [1]}, "edits"),
        ({"sampling": 7}, "sampling"),
        ({"look": ["vivid"]}, "look"),
        ({"page": 0}, "Pages"),
    ],
)
def test_wrong_settings_give_a_sentence(client, session, values, says):
    upload = find(send(client, session, encode(make_photo(40, 30))), "upload")
    values = {"seed": 3, **values}
    response = client.post(f"{session}/make/{upload}", json=values)
    assert says in (response.json()["error"] if response.status_code == 422 else response.text)
    assert "result" not in response.text


def test_cancel_stops_at_the_next_step(client, session, server):
    upload = find(send(client, session, encode(make_photo(40, 30))), "upload")
    values = {"seed": 3, "sampling": {"steps": 1000}}
    events = []
    while server.worker.length:  # the upload's job may end after its response
        pass

    def listen():
        events.extend(events_of(client.post(f"{session}/make/{upload}", json=values)))

    listening = threading.Thread(target=listen)
    listening.start()
    while server.worker._running is None:
        pass
    job = server.worker._running.id
    assert client.post(f"{session}/cancel/{job}", headers=JSON).json() == {"canceled": True}
    listening.join(timeout=20)
    assert events[-1] == {"canceled": True}
    assert max(event.get("step", 0) for event in events) < 1000
    assert client.post(f"{session}/cancel/0", headers=JSON).json() == {"canceled": False}


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "[localhost", "", "localhost@x"]
)
def test_a_foreign_host_is_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:9", "[::1]:7860", "LOCALHOST"])
def test_this_machine_is_let_in(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_a_server_of_the_network_knows_addresses_but_no_foreign_names(models):
    from condiff.web.security import Guard

    guard = Guard(None, hosts=["box"], private=False, max_upload=9)  # type: ignore[arg-type]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    from starlette.datastructures import Headers

    for host, refused in [("192.168.1.5:80", False), ("box", False), ("evil.example", True)]:
        assert bool(guard._refuse(scope, Headers({"host": host}))) is refused


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:8080", "[x"])
def test_a_foreign_origin_may_post_nothing(client, session, origin):
    headers = {**BYTES, "origin": origin}
    assert client.post(f"{session}/photo/upload", headers=headers, content=b"x").status_code == 403
    assert client.post("/api/session", headers={**JSON, "origin": origin}).status_code == 403


def test_what_a_foreign_page_can_send_unasked_is_refused(client, session):
    for kind in ("text/plain", "multipart/form-data; boundary=x", "", "x-www-form-urlencoded"):
        headers = {"content-type": kind}
        response = client.post(f"{session}/photo/upload", headers=headers, content=b"x")
        assert response.status_code == 415
    response = client.get("/api/settings", headers={"sec-fetch-site": "cross-site"})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("url", ["/", "/static/zoom.js", "/api/settings", "/nothing"])
def test_every_answer_has_the_headers(client, url):
    headers = client.get(url).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    policy = headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_no_path_of_the_client_is_opened(client, session, server):
    content = encode(make_photo(40, 30))
    upload = find(send(client, session, content, "../../evil.jpg"), "upload")
    kept = server.sessions.find(session.rsplit("/", 1)[1]).find(upload)
    assert kept.name == "evil.jpg"
    assert kept.path.parent.parent.parent == server.sessions.root
    for name in ("in", "..%2fin", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2f..%2f..%2fetc%2fpasswd"):
        assert client.get(f"{session}/files/{upload}/{name}").status_code == 404
    for name in ("..%2fapp.py", "%2e%2e%2fapp.py", "style.css%00"):
        assert client.get(f"/static/{name}").status_code == 404


def test_sessions_do_not_see_each_other_and_take_their_files_along(client, server):
    first, second = (client.post("/api/session", headers=JSON).json()["session"] for _ in "ab")
    upload = find(send(client, f"/api/{first}", encode(make_photo(40, 30))), "upload")
    assert client.get(f"/api/{first}/files/{upload}/before.jpg").status_code == 200
    assert client.get(f"/api/{second}/files/{upload}/before.jpg").status_code == 404
    folder = server.sessions.root / first
    assert folder.stat().st_mode & 0o077 == server.sessions.root.stat().st_mode & 0o077 == 0
    assert client.post(f"/api/{first}/end", headers=JSON).status_code == 204
    assert not folder.exists()
    response = client.get(f"/api/{first}/files/{upload}/before.jpg")
    assert response.status_code == 404
    assert "reload" in response.json()["error"]


def test_limits_of_size_and_pixels(models):
    small = Server(WebSettings(**models, max_upload=3000, max_pixels=900))
    root = small.sessions.root
    with TestClient(small.build(), base_url="http://localhost") as client:
        session = "/api/" + client.post("/api/session", headers=JSON).json()["session"]
        url = f"{session}/photo/upload"
        response = client.post(url, headers=BYTES, content=bytes(3001))
        assert response.status_code == 413
        response = client.post(url, headers=BYTES, content=(bytes(1000) for _ in range(4)))
        assert response.status_code == 413
        assert not any((root / session.split("/")[2]).iterdir())
        (event,) = [e for e in send(client, session, encode(make_photo(40, 30))) if "error" in e]
        assert "1200" in event["error"] or "1,200" in event["error"] or "pixel" in event["error"]
    assert not root.exists()


def test_auth_asks_for_name_and_password(models, monkeypatch):
    monkeypatch.setattr("condiff.web.security.LOGIN_DELAY", 0.0)
    locked = Server(WebSettings(**models, auth="family:secret:word"))
    with TestClient(locked.build(), base_url="http://localhost") as client:
        response = client.get("/")
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Basic")
        for url in ("/static/app.js", "/api/settings"):
            assert client.get(url).status_code == 401
        assert client.get("/", auth=("family", "wrong")).status_code == 401
        assert client.get("/", auth=("family", "secret:word")).status_code == 200


def test_controls_are_the_fields_of_the_settings(client):
    from condiff.config import WORDS, SamplingConfig

    known = client.get("/api/settings").json()
    names = [control["name"] for control in known["colorize"]["sampling"]]
    assert names == [name for name in SamplingConfig.model_fields if name not in WORDS]
    drawn = [control["name"] for control in known["draw"]["sampling"]]
    assert drawn == [name for name in names if name not in ("size", "coherence")]
    steps = known["colorize"]["sampling"][0]
    assert (steps["kind"], steps["min"], steps["max"]) == ("number", 1, 1000)
    edits = {control["name"]: control for control in known["colorize"]["edits"]}
    assert (edits["saturation"]["min"], edits["saturation"]["max"]) == (0, 5)
    assert edits["invert"]["kind"] == "switch"
    assert not edits.keys() & {"hints", "mask", "keep_lines"}
    assert [control["name"] for control in known["draw"]["edits"]] == ["keep_lines", "flat"]
    assert list(known["colorize"]["looks"]) == ["quiet", "natural", "vivid"]
    embedded = describe(read_model_info("colorize"))  # its quiet has the saturation of natural
    assert list(embedded["looks"]) == ["quiet", "natural", "vivid"]
    assert known["colorize"]["hints"]


def test_a_model_that_takes_words_has_fields_for_them_whatever_its_name(sketch_folder, tiny_folder):
    import dataclasses

    from condiff.config import WORDS
    from condiff.inputs import Text
    from condiff.models.info import read_model_info

    for folder in (sketch_folder, tiny_folder):
        info = read_model_info(folder)
        task = dataclasses.replace(info.task, inputs=(*info.task.inputs, Text()))
        for each, there in ((info, set()), (dataclasses.replace(info, task=task), set(WORDS))):
            named = {control["name"] for control in describe(each)["sampling"]}
            assert named & set(WORDS) == there


def test_words_for_a_drawing_that_takes_none_give_a_sentence(client, session):
    drawing = Image.new("L", (96, 80), 255)
    drawing.paste(0, (20, 20, 70, 23))
    upload = find(send(client, session, encode(drawing, "PNG"), "a.png", "drawing"), "upload")
    events = order(client, session, upload, kind="drawing", sampling={"prompt": "a red house"})
    assert "takes no words" in find(events, "error")


def test_every_control_has_a_text_in_the_pages_table(client):
    known = client.get("/api/settings").json()
    strings = client.get("/static/strings.js").text
    for kind in ("colorize", "draw"):
        for control in known[kind]["sampling"] + known[kind]["edits"]:
            assert f"\n      {control['name']}: [" in strings


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("C:\\photos\\a.jpg", "a.jpg"),
        ("../../etc/passwd", "passwd"),
        ("a\r\nb\0.jpg", "ab.jpg"),
        ("..", "photo.jpg"),
        ("", "photo.jpg"),
        ("ü" * 300 + ".png", "ü" * 98 + ".png"),
    ],
)
def test_names_lose_folders_and_control_characters(name, clean):
    assert clean_name(name) == clean


def test_names_in_a_zip_are_distinct_whatever_their_case():
    taken = set()
    names = [distinct(name, taken) for name in ("a.jpg", "A.jpg", "a.jpg", "b.jpg")]
    assert names == ["a.jpg", "A-2.jpg", "a-3.jpg", "b.jpg"]


def test_loopback_addresses():
    hosts = ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost", "0.0.0.0", "10.0.0.1", "box"]
    assert [is_loopback(host) for host in hosts] == [True] * 5 + [False] * 3


def test_a_port_in_use_and_a_wrong_login_are_usage_errors(capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["web", "--port", port, "--no-browser"]) == 2
    assert "--port" in capsys.readouterr().err
    assert main(["web", "--auth", "nopassword", "--no-browser"]) == 2
    assert "--auth" in capsys.readouterr().err


def test_a_model_that_colours_nothing_is_refused(models):
    from condiff.errors import ConfigError

    with pytest.raises(ConfigError, match="not a colorizer"):
        Server(WebSettings(model=models["drawing_model"]))
    with pytest.raises(ConfigError, match="takes no drawings"):
        Server(WebSettings(model=models["model"], drawing_model=models["model"]))


def test_edits_take_no_pictures_by_name(tiny_folder):
    from condiff.errors import ConfigError
    from condiff.models.info import read_model_info

    names = {control["name"] for control in describe(read_model_info(tiny_folder))["edits"]}
    assert {"saturation", "temperature", "invert", "background", "as_is"} <= names
    with pytest.raises(ConfigError):
        read_edits({"saturation": True})
    assert read_edits({"temperature": 3}).temperature == 3


def test_a_page_of_several_is_the_command_lines(client, session, models, tmp_path):
    pages = [make_photo(60, 44, seed=1), make_photo(50, 40, seed=2)]
    content = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    events = send(client, session, content, "book.tif")
    assert "page 1" in " ".join(find(events, "remarks"))
    upload = find(events, "upload")
    events = order(client, session, upload, page=2)
    assert (find(events, "width"), find(events, "height")) == (50, 40)
    _, made = download(client, session, upload, find(events, "result"))
    (tmp_path / "book.tif").write_bytes(content)
    command = ["colorize", str(tmp_path / "book.tif"), "-m", models["model"], "--steps", "2"]
    assert main([*command, "--seed", "3", "--page", "2"]) == 0
    assert made == (tmp_path / "book.color.tif").read_bytes()
    assert "page 3" in find(order(client, session, upload, page=3), "error")


def test_the_page_that_was_shown_stays_in_memory_for_the_next_order(client, session, server):
    """The upload and the order both show page 1."""
    photos = server.models.colorizer._shown
    photos.clear()
    content = encode(make_photo(60, 44), "TIFF", save_all=True, append_images=[make_photo(50, 40)])
    upload = find(send(client, session, content, "book.tif"), "upload")
    shown = list(photos.items())
    order(client, session, upload)
    assert list(photos.items()) == shown and len(shown) == 1


def test_drawings_and_references_of_several_pages_are_read_from_page_1(client, session):
    lines = Image.new("L", (64, 48), 255)
    lines.paste(0, (10, 10, 50, 12))
    content = encode(lines, "TIFF", save_all=True, append_images=[lines])
    events = send(client, session, content, "book.tif", kind="drawing")
    assert "page 1" in " ".join(find(events, "remarks"))
    content = encode(make_photo(60, 44), "TIFF", save_all=True, append_images=[lines])
    assert find(send(client, session, content, "book.tif", kind="reference"), "before")


def test_a_photo_that_is_removed_takes_its_files_along(client, session, server):
    upload = find(send(client, session, encode(make_photo(40, 30))), "upload")
    folder = server.sessions.find(session.rsplit("/", 1)[1]).find(upload).folder
    assert folder.is_dir()
    assert client.post(f"{session}/remove/{upload}", headers=JSON).status_code == 204
    assert not folder.exists()
    assert client.post(f"{session}/make/{upload}", json={"seed": 1}).status_code == 404


def test_old_results_make_room_for_new_ones(client, session, server, monkeypatch):
    monkeypatch.setattr("condiff.web.sessions.KEPT_RESULTS", 2)
    upload = find(send(client, session, encode(make_photo(40, 30))), "upload")
    names = [find(order(client, session, upload, seed=seed), "result") for seed in (1, 2, 1, 3)]
    kept = server.sessions.find(session.rsplit("/", 1)[1]).find(upload)
    assert list(kept.results) == [names[0], names[3]]  # seed 1 was shown again after seed 2
    assert not (kept.folder / f"{names[1]}.jpg").exists()
    events = events_of(client.post(f"{session}/write/{upload}/{names[1]}", headers=JSON))
    assert "again" in find(events, "error")


def test_the_folder_of_a_killed_server_is_deleted_by_the_next(monkeypatch, tmp_path):
    import shutil
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living, killed = Sessions(), Sessions()
    copy = killed.root.with_name("condiff-web-left")
    shutil.copytree(killed.root, copy)  # its leftovers, unlocked
    third = Sessions()
    assert not copy.exists()
    assert living.root.is_dir()
    assert killed.root.is_dir()
    for each in (living, killed, third):
        each.close()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("body", [b"[]", b"no json", b"[" * 100_000])
def test_a_body_that_is_no_object_gives_a_sentence(client, session, body):
    response = client.post(f"{session}/zip", content=body, headers=JSON)
    assert (response.status_code, "JSON" in response.json()["error"]) == (422, True)


def test_a_zip_of_nothing_gives_a_sentence(client, session):
    for values in ({}, {"results": 5}, {"results": []}, {"results": [["x", "y"]]}):
        assert client.post(f"{session}/zip", json=values).json()["error"].endswith((".", "again."))


def test_a_tab_that_is_closed_ends_its_jobs_without_a_traceback(client, server, capfd):
    session = "/api/" + client.post("/api/session", headers=JSON).json()["session"]
    upload = find(send(client, session, encode(make_photo(40, 30))), "upload")
    kept = server.sessions.find(session.rsplit("/", 1)[1]).find(upload)
    result = find(order(client, session, upload), "result")
    client.post(f"{session}/end", headers=JSON)
    assert client.post(f"{session}/write/{upload}/{result}", headers=JSON).status_code == 404
    events = list(while_error(kept, server.models.colorizer.write(kept, result)))
    assert "no longer exists" in events[-1]
    assert "Traceback" not in capfd.readouterr().err


def while_error(upload, events):
    from condiff.web.app import while_there
    from condiff.web.sessions import Gone

    try:
        yield from while_there(upload, events)
    except Gone as gone:
        yield str(gone)


@pytest.mark.parametrize("mode", ["references", "palette"])
def test_a_reference_gives_the_command_lines_bytes(client, session, models, tmp_path, mode):
    content, colors = encode(make_photo(60, 44).convert("L")), encode(make_photo(64, 50, seed=2))
    upload = find(send(client, session, content), "upload")
    reference = find(send(client, session, colors, "colors.jpg", "reference"), "upload")
    plain = find(order(client, session, upload), "result")
    values = {"references": [reference]} if mode == "references" else {"palette": reference}
    result = find(order(client, session, upload, **values), "result")
    assert result != plain
    _, made = download(client, session, upload, result)
    for name, written in {"photo.jpg": content, "colors.jpg": colors}.items():
        (tmp_path / name).write_bytes(written)
    flag = "--reference" if mode == "references" else "--palette"
    command = ["colorize", str(tmp_path / "photo.jpg"), "-m", models["model"], "--seed", "3"]
    assert main([*command, "--steps", "2", flag, str(tmp_path / "colors.jpg")]) == 0
    assert made == (tmp_path / "photo.color.jpg").read_bytes()


def test_a_reference_has_colours_and_is_the_sessions_own(client, session):
    grey = encode(make_photo(60, 44).convert("L"))
    assert "no colours" in find(send(client, session, grey, "grey.jpg", "reference"), "error")
    upload = find(send(client, session, grey), "upload")
    for values in ({"references": [upload]}, {"references": ["x"]}, {"palette": "x"}):
        response = client.post(f"{session}/make/{upload}", json={"seed": 1, **values})
        assert (response.status_code, "no longer exists" in response.text) == (404, True)


@pytest.fixture
def sessions():
    made = Sessions()
    yield made
    made.close()


def test_the_tab_that_is_idle_longest_makes_room(sessions, monkeypatch):
    monkeypatch.setattr(tabs, "MAX_SESSIONS", 2)
    first, second = sessions.open(), sessions.open()
    first.seen -= 100
    second.seen -= 50
    sessions.find(first.id)  # it is used again
    third = sessions.open()
    assert first.folder.is_dir() and third.folder.is_dir() and not second.folder.exists()


def test_the_files_of_idle_tabs_are_deleted(sessions):
    idle, active = sessions.open(), sessions.open()
    idle.seen -= tabs.IDLE_SECONDS + 1
    active.seen -= tabs.IDLE_SECONDS - 60
    sessions.sweep()
    assert active.folder.is_dir() and not idle.folder.exists()
    with pytest.raises(Gone):
        sessions.find(idle.id)


def test_a_tab_takes_a_limited_number_of_photos(sessions, monkeypatch):
    monkeypatch.setattr(tabs, "MAX_FILES", 1)
    session = sessions.open()
    session.add("a.jpg")
    with pytest.raises(Gone, match="The limit is 1 "):
        session.add("b.jpg")
