"""`rlhf stamps` on a tiny package: a .deb built here byte by byte, and the same unpacked."""

import gzip
import io
import json
import lzma
import random
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from rlhf.cli.main import main
from rlhf.data.images import image_digest, load_image
from rlhf.data.records import DemonstrationRecord, PromptRecord, read_records
from rlhf.demo.stamps import package as stamps_package
from rlhf.demo.stamps.dataset import INSTRUCTIONS, write_stamps
from rlhf.demo.stamps.package import DOCS, STAMPS, read_package
from rlhf.errors import DataError, ResourceError, RlhfError, UsageError


def png(colour: int, mode: str = "RGBA") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 6), (colour, 0, 0, 90)[: len(mode)]).save(file, "PNG")
    return file.getvalue()


FILES = {
    f"{STAMPS}animals/birds/crow.png": png(1),
    f"{STAMPS}animals/birds/crow.txt": b"A crow.\nfr.utf8=Une corneille.\n",
    f"{STAMPS}animals/birds/crow_mirror.png": png(2),  # no caption
    f"{STAMPS}animals/birds/crow.ogg": b"a sound",
    f"{STAMPS}plants/rose.png": png(3),
    f"{STAMPS}plants/rose.txt": b"\xef\xbb\xbf \xe2\x80\x93  A  red\trose \r\n",
    f"{STAMPS}plants/fern.png": png(4),
    f"{STAMPS}plants/fern.txt": "fr.utf8=Une fougère.\n".encode(),
    f"{STAMPS}plants/moss.png": png(5),
    f"{STAMPS}plants/moss.txt": b"\xff\xfe",
    f"{STAMPS}plants/leaf.png": png(6)[:45],  # cut short
    f"{STAMPS}plants/leaf.txt": b"A leaf.",
    f"{STAMPS}plants/tree.svg": b"<svg/>",
    f"{STAMPS}plants/tree.txt": b"A tree!",
    f"{DOCS}copyright": b"License: GPL-2\n",
    f"{DOCS}changelog.gz": gzip.compress(b"by A. Painter"),
    f"{DOCS}changelog.Debian.gz": gzip.compress(b"tuxpaint-stamps (2022.06.04-1) unstable;\n"),
    "usr/share/other/picture.png": png(7),
}


def archive(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def deb(tar: bytes, name: str = "data.tar.xz") -> bytes:
    data = lzma.compress(tar, preset=0)
    content = b"!<arch>\n"
    for member, body in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data)):
        header = f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n"
        content += header.encode() + body + b"\n" * (len(body) % 2)
    return content


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "stamps.deb"
    path.write_bytes(deb(archive(FILES)))
    return path


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "root"


def tree(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def refusal(source: Path, output: Path) -> RlhfError:
    with pytest.raises(RlhfError) as caught:
        write_stamps(source, output, seed=0, held_out=0.0)
    error = caught.value
    assert error.what and error.where and error.fix
    assert not list(output.parent.glob(".*tmp*"))
    return error


def test_a_deb_becomes_images_prompts_captions_and_its_licence(package: Path) -> None:
    out = package.with_name("out")
    metrics = write_stamps(package, out, seed=0, held_out=0.0)
    skipped = {"no PNG": 1, "no English caption": 3, "unreadable PNG": 1}
    counts = {"images": 2, "categories": 2, "prompts": 2, "held_out_prompts": 0}
    assert metrics == {**counts, "skipped": skipped}
    files = tree(out)
    source = files.pop("SOURCE.txt").decode()
    assert "tuxpaint-stamps-default 2022.06.04-1\n" in source
    assert "version 2" in source and "Changed:" in source
    images = {"pictures/animals/birds/crow.png", "pictures/plants/rose.png"}
    papers = {"licence/changelog.Debian.gz", "licence/changelog.gz", "licence/copyright"}
    assert files.keys() == {"captions.jsonl", "prompts.jsonl"} | images | papers
    crow = out / "pictures/animals/birds/crow.png"
    assert crow.read_bytes() == FILES[f"{STAMPS}animals/birds/crow.png"]  # alpha as it was
    assert load_image(crow).mode == "RGB"


def test_only_the_stamps_that_are_wanted_are_written(package: Path) -> None:
    out = package.with_name("out")
    metrics = write_stamps(package, out, seed=0, held_out=0.0, only=["plants/rose", "plants/tree"])
    assert (metrics["images"], metrics["skipped"]) == (1, {"no PNG": 1})
    images = [path.relative_to(out).as_posix() for path in out.rglob("*.png")]
    assert images == ["pictures/plants/rose.png"]
    assert (out / "licence/copyright").is_file() and (out / "SOURCE.txt").is_file()


def test_the_records_name_image_question_category_and_caption(package: Path) -> None:
    out = package.with_name("out")
    write_stamps(package, out, seed=0, held_out=0.0)
    prompts = read_records(out / "prompts.jsonl", PromptRecord)
    captions = read_records(out / "captions.jsonl", DemonstrationRecord)
    assert [record.id for record in prompts] == ["stamps/animals/birds/crow", "stamps/plants/rose"]
    assert [record.meta for record in prompts] == [
        {"category": "animals", "caption": "A crow."},
        {"category": "plants", "caption": "A red rose."},
    ]
    assert {record.instruction for record in prompts} <= set(INSTRUCTIONS)
    assert [record.response for record in captions] == ["A crow.", "A red rose."]
    same = ("image_path", "instruction", "id", "meta")
    for prompt, caption in zip(prompts, captions, strict=True):
        assert [getattr(prompt, k) for k in same] == [getattr(caption, k) for k in same]
        assert (out / prompt.image_path).is_file()


def test_deb_root_and_stamps_directory_give_the_same(package: Path, unpacked: Path) -> None:
    sources = (package, unpacked, unpacked / STAMPS)
    for number, source in enumerate(sources):
        write_stamps(source, package.with_name(f"out{number}"), seed=3, held_out=0.4)
    first, *others = (tree(package.with_name(f"out{n}")) for n in range(len(sources)))
    assert others == [first, first]


def package_of_images(count: int, tmp_path: Path) -> Path:
    """Stamps of which the last two are the same image."""
    files = {name: data for name, data in FILES.items() if name.startswith(DOCS)}
    for i in range(count):
        files[f"{STAMPS}a/{i:03d}.png"] = png(min(i, count - 2), "RGB")
        files[f"{STAMPS}a/{i:03d}.txt"] = f"Number {i}".encode()
    path = tmp_path / "many.deb"
    path.write_bytes(deb(archive(files)))
    return path


def test_held_out_images_are_in_no_other_file_by_content(tmp_path: Path) -> None:
    source, training_counts = package_of_images(100, tmp_path), set()
    for seed in range(4):
        out = tmp_path / str(seed)
        metrics = write_stamps(source, out, seed=seed, held_out=0.4)
        kinds = {"prompts": PromptRecord, "captions": DemonstrationRecord}
        kinds["held_out_prompts"] = PromptRecord
        names = [
            {image_digest(out / r.image_path) for r in read_records(out / f"{name}.jsonl", kind)}  # type: ignore[arg-type, var-annotated]
            for name, kind in kinds.items()
        ]
        assert names[0] == names[1]
        assert names[0].isdisjoint(names[2])
        assert metrics["prompts"] + metrics["held_out_prompts"] == 100
        assert abs(metrics["held_out_prompts"] - 40) < 20  # 4 standard deviations
        training_counts.add(tuple(sorted(names[2])))
    assert len(training_counts) == 4


def test_the_seed_fixes_every_byte(tmp_path: Path) -> None:
    source = package_of_images(30, tmp_path)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_stamps(source, tmp_path / name, seed=seed, held_out=0.0)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")


def hostile() -> list[tarfile.TarInfo]:
    names = (
        "/etc/evil.png",
        f"/{STAMPS}evil.png",
        f"{STAMPS}../../../../evil.png",
        f"./{STAMPS}a/../../evil.png",
        f"../{STAMPS}evil.png",
        f"{STAMPS}.png",
        f"{STAMPS}a\\..\\evil.png",
        f"{STAMPS}a\nevil.png",
        f"{STAMPS}{'a/' * 100}evil.png",
        f"{DOCS}sub/evil",
        f"{DOCS}..",
    )
    members = [tarfile.TarInfo(name) for name in names]
    for member in members:
        member.size = 4
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    for kind in kinds:
        members.append(tarfile.TarInfo(f"{STAMPS}kind{kind.decode()}.png"))
        members[-1].type, members[-1].linkname = kind, "/etc/passwd"
    return members


def test_hostile_members_are_skipped(package: Path) -> None:
    clean = read_package(package)
    package.write_bytes(deb(archive(FILES, *hostile())))
    assert read_package(package) == clean
    out = package.parent / "deep" / "out"
    write_stamps(package, out, seed=0, held_out=0.0)
    assert not [path for path in package.parent.rglob("*") if "evil" in path.name]


def test_a_link_in_a_directory_is_skipped(unpacked: Path, tmp_path: Path) -> None:
    clean = read_package(unpacked)
    (tmp_path / "secret.png").write_bytes(png(9))
    (unpacked / STAMPS / "a.png").symlink_to(tmp_path / "secret.png")
    (unpacked / STAMPS / "all").symlink_to(tmp_path)
    assert read_package(unpacked) == clean


def test_files_over_the_limits_are_left_out_or_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps_package, "MAX_BYTES", len(FILES[f"{STAMPS}plants/rose.png"]) - 1)
    assert f"{STAMPS}plants/rose.png" not in read_package(package)
    monkeypatch.undo()
    monkeypatch.setattr(stamps_package, "_MAX_TOTAL", 100)
    with pytest.raises(DataError, match="together"):
        read_package(package)


def test_a_file_that_is_no_package_is_refused(tmp_path: Path, unpacked: Path) -> None:
    out = tmp_path / "out"
    missing = refusal(tmp_path / "none", out)
    assert isinstance(missing, DataError) and "not there" in missing.what
    assert "apt-get download tuxpaint-stamps-default" in missing.fix
    assert "rlhf stamps FILE.deb output=" in missing.fix
    (tmp_path / "empty").mkdir()
    assert "holds no usr/share/tuxpaint/stamps" in refusal(tmp_path / "empty", out).what
    (tmp_path / "text").write_text("not an archive")
    assert "no .deb" in refusal(tmp_path / "text", out).what
    (unpacked / DOCS / "copyright").unlink()
    assert "copyright" in refusal(unpacked, out).what


def test_other_debs_are_refused(package: Path) -> None:
    out = package.with_name("out")
    package.write_bytes(deb(b"", "data.tar.zst"))
    assert "dpkg -x" in refusal(package, out).what
    package.write_bytes(deb(archive({f"{DOCS}copyright": b"GPL"})))
    assert "no image" in refusal(package, out).what


def test_an_existing_output_is_not_overwritten(package: Path) -> None:
    out = package.with_name("out")
    out.mkdir()
    assert isinstance(refusal(package, out), UsageError)
    assert tree(out) == {}
    package.with_name("file").write_text("")
    assert isinstance(refusal(package, package.with_name("file") / "out"), ResourceError)


def test_a_deb_cut_short_anywhere_is_refused(package: Path) -> None:
    intact = package.read_bytes()
    for end in [*range(0, 220, 7), *range(220, len(intact) - 1, 101), len(intact) - 2]:
        package.write_bytes(intact[:end])
        assert isinstance(refusal(package, package.with_name("out")), DataError), end


def test_damage_is_refused_or_harmless_never_a_traceback(package: Path) -> None:
    clean, intact, tar = read_package(package), package.read_bytes(), archive(FILES)
    rng, refused = random.Random(0), 0
    for trial in range(600):
        inside = trial % 2  # damage the tar, or the .deb around it
        content = bytearray(tar if inside else intact)
        for _ in range(rng.choice([1, 4, 40])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        package.write_bytes(deb(bytes(content)) if inside else content)
        try:
            members = read_package(package)
            assert inside or members == clean
        except DataError:
            refused += 1
    assert refused > 100


def test_the_command_prints_its_metrics(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = package.with_name("out")
    args = ["stamps", str(package), f"output={out}", "data.validation_fraction=0", "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    assert main(args) == 2
    assert main(["stamps", str(package)]) == 2
    assert main(["stamps", str(package), str(package), "output=x"]) == 2
    shutil.rmtree(out)
    assert main(["stamps", str(out), f"output={out}"]) == 3
