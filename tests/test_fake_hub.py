"""The Hub of the tests behaves as the Hub does, as far as the client can tell."""

from collections.abc import Iterator

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from tests.fake_hub import FakeHub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi(hub.url, hub.token)


@pytest.fixture
def stranger(hub) -> HfApi:
    return HfApi(hub.url, False)


def test_what_is_committed_can_be_read(hub, api, stranger, tmp_path):
    assert api.create_repo("model", private=False).repo_id == "me/model"
    api.upload_file(path_or_fileobj=b"one", path_in_repo="deep/file.txt", repo_id="me/model", commit_message="First")
    changes = [CommitOperationAdd("other.txt", b"two"), CommitOperationDelete("deep/file.txt")]
    api.create_commit("me/model", changes, commit_message="Second")
    repository = hub.repositories["me/model"]
    assert repository.commits == ["initial commit", "First", "Second"]
    assert set(stranger.list_repo_files("me/model")) == set(repository.files) == {".gitattributes", "other.txt"}
    download = {"endpoint": hub.url, "token": False, "cache_dir": tmp_path}
    with open(hf_hub_download("me/model", "other.txt", **download)) as file:
        assert file.read() == "two"
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/model", "deep/file.txt", **download)
    first = list(repository.snapshots)[1]
    assert open(hf_hub_download("me/model", "deep/file.txt", revision=first, **download)).read() == "one"


def test_creating_what_exists_is_an_error_unless_it_may(api):
    api.create_repo("me/model")
    api.create_repo("me/model", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("me/model")


def test_a_private_repository_is_not_there_for_strangers(hub, api, stranger):
    api.create_repo("me/secret", private=True)
    assert api.repo_info("me/secret").private
    for call in (stranger.repo_info, stranger.list_repo_files, stranger.repo_info):
        with pytest.raises(RepositoryNotFoundError):
            call("me/secret")
    assert hub.requests[-1].token is None and hub.requests[0].token == hub.token


def test_only_the_owner_writes(hub, api, stranger, tmp_path):
    (tmp_path / "file.txt").write_text("mine")
    hub.add("me/model", tmp_path)
    before = hub.repositories["me/model"].files
    with pytest.raises(HfHubHTTPError, match="403"):
        stranger.upload_file(path_or_fileobj=b"", path_in_repo="file.txt", repo_id="me/model")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("somebody/model")
    assert hub.repositories["me/model"].files == before == {"file.txt": b"mine"}


def test_refusals_are_those_that_were_asked_for(hub, api, tmp_path):
    hub.add("me/model", tmp_path)
    hub.refuse("POST .*/commit/", 503)
    hub.refuse("/me/model/resolve/", 403, "GatedRepo")
    with pytest.raises(HfHubHTTPError, match="503"):
        api.upload_file(path_or_fileobj=b"", path_in_repo="file.txt", repo_id="me/model")
    with pytest.raises(GatedRepoError):
        hf_hub_download("me/model", "file.txt", endpoint=hub.url, token=False, cache_dir=tmp_path)
    hub.cut()
    with pytest.raises(Exception, match="disconnected|Connection"):
        api.repo_info("me/model")
