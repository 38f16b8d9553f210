"""What docker-py does with images, each call once or more. Arguments: the daemon's socket, a repository that can be pushed to.

Stops at the first thing that is not as with Docker's daemon."""

import io
import json
import sys
import tarfile
import time

import docker
from docker import errors

socket, repository = sys.argv[1:3]
registry = repository.split("/")[0]
client = docker.DockerClient(base_url=f"unix://{socket}", timeout=60)
api = client.api


def is_same(name, found, expected):
    if found != expected:
        sys.exit(f"{name}: {found!r}, not {expected!r}")


def fails(name, kind, status, call):
    try:
        found = call()
    except kind as error:
        is_same(f"{name}: status", getattr(getattr(error, "response", None), "status_code", None), status)
        return str(error)
    sys.exit(f"{name}: {found!r}, not {kind.__name__}")


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o755, 1700000000
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def tags(images):
    return sorted(tag for image in images for tag in image.tags)


def names(chunks):
    data = b"".join(chunks)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [image["RepoTags"] for image in json.load(archive.extractfile("manifest.json"))], data


with open("/usr/bin/busybox", "rb") as program:
    root = tar([("bin/sh", program.read()), ("etc/motd", b"hello\n")])

# Import, in each of its forms.
changes = ['CMD ["/bin/sh"]', "LABEL from=data", "ENV A=b"]
made = api.import_image_from_data(root, repository="py/data", tag="1", changes=changes)
is_same("import", json.loads(made)["status"][:7], "sha256:")
with open(socket + ".tar", "wb") as file:
    file.write(root)
api.import_image_from_file(socket + ".tar", repository="py/file", tag="1", changes="LABEL from=file")
api.import_image(src=root, repository="py/generic")
fails("import of an image", errors.APIError, 500, lambda: api.import_image_from_image("127.0.0.1:1/x", repository="py/image"))
text = fails("import from a URL", errors.APIError, 500, lambda: api.import_image_from_url("http://127.0.0.1:1/x"))
is_same("why", "connection refused" in text, True)

# Lists and what they show.
everything = ["py/data:1", "py/file:1", "py/generic:latest"]
is_same("list", tags(client.images.list()), everything)
is_same("list all", tags(client.images.list(all=True)), everything)
is_same("list name", tags(client.images.list(name="py/data")), ["py/data:1"])
is_same("list label", tags(client.images.list(filters={"label": "from=data"})), ["py/data:1"])
is_same("list labels", tags(client.images.list(filters={"label": ["from=data", "x"]})), [])
is_same("list not dangling", tags(client.images.list(filters={"dangling": False})), everything)
is_same("list reference", tags(client.images.list(filters={"reference": "py/f*"})), ["py/file:1"])
is_same("list quiet", [type(image) for image in api.images(quiet=True)], [str] * 3)
fails("list by nonsense", errors.APIError, 400, lambda: client.images.list(filters={"bad": "1"}))
image = client.images.get("py/data:1")
is_same("labels", image.labels, {"from": "data"})
is_same("environment", image.attrs["Config"]["Env"], ["A=b"])
# Ten digits of it or twelve, by the version.
is_same("short id", image.id[: len(image.short_id)], image.short_id)
fails("get", errors.ImageNotFound, 404, lambda: client.images.get("nosuch"))
history = image.history()
is_same("history", [(len(history), history[0]["Tags"], history[0]["Comment"])], [(1, ["py/data:1"], "Imported from -")])
is_same("tag", image.tag("py/other", tag="2", force=True), True)
image.reload()
fails("tag", errors.APIError, 400, lambda: image.tag("Bad", tag="2"))

# Out and in again.
is_same("save", names(image.save())[0], [None])
is_same("save named", names(image.save(named=True, chunk_size=1000))[0], [["py/data:1"]])
is_same("save under a name", names(image.save(named="py/other:2"))[0], [["py/other:2"]])
fails("save under another's name", errors.InvalidArgument, None, lambda: image.save(named="py/file:1"))
fails("save what is not there", errors.ImageNotFound, 404, lambda: names(api.get_image("nosuch")))
archive = names(api.get_image("py/data:1"))[1]
is_same("save twice", names(api.get_image("py/data:1"))[1] == archive, True)
client.images.remove("py/data:1")
client.images.remove("py/other:2")
pieces = (archive[at : at + 4096] for at in range(0, len(archive), 4096))
for source in [archive, io.BytesIO(archive), pieces]:
    is_same("load", [image.tags for image in client.images.load(source)], [["py/data:1"]])
is_same("load quietly", list(api.load_image(archive, quiet=True)), [{"stream": "Loaded image: py/data:1\n"}])
fails("load", errors.ImageLoadError, None, lambda: client.images.load(b"garbage"))
is_same("loaded", client.images.get("py/data:1").id, image.id)

# To a registry and back.
image.tag(repository, tag="1")
sent = list(client.images.push(repository, tag="1", stream=True, decode=True))
is_same("push", [sorted(line["aux"]) for line in sent if "aux" in line], [["Digest", "Size", "Tag"]])
digest = next(line["aux"]["Digest"] for line in sent if "aux" in line)
as_somebody = client.images.push(repository, tag="1", auth_config={"username": "a", "password": "b"})
is_same("push with a password", digest in as_somebody, True)
is_same("push of nothing", '"error"' in client.images.push(f"{registry}/nosuch", tag="1"), True)
client.images.remove(f"{repository}:1")
client.images.remove("py/data:1")
pulled = client.images.pull(repository, tag="1")
is_same("pull", (pulled.id, pulled.tags), (image.id, [f"{repository}:1"]))
is_same("digests", pulled.attrs["RepoDigests"], [f"{repository}@{digest}"])
lines = list(api.pull(repository, tag="1", stream=True, decode=True))
is_same("pull again", [sorted(line) for line in lines], [["id", "status"], ["status"], ["status"]])
is_same("pull all tags", tags(client.images.pull(repository, all_tags=True)), [f"{repository}:1"])
is_same("pull for here", client.images.pull(repository, tag="1", platform="linux/amd64").id, image.id)
is_same("pull by digest", client.images.pull(f"{repository}@{digest}").id, image.id)
fails("pull for nowhere", errors.APIError, 400, lambda: client.images.pull(repository, tag="1", platform="a/b/c/d"))
fails("pull", errors.NotFound, 404, lambda: client.images.pull(f"{registry}/nosuch"))
data = client.images.get_registry_data(f"{repository}:1")
is_same("at the registry", (data.id, data.has_platform("linux/amd64")), (digest, True))
is_same("not for that", data.has_platform("linux/s390x"), False)
is_same("pull what is there", data.pull().id, image.id)
fails("look", errors.NotFound, 404, lambda: client.images.get_registry_data(f"{registry}/nosuch"))
is_same("search", [found["name"] for found in client.images.search(f"{repository}", limit=5)], [repository])
is_same("login", api.login("a", "b", registry=f"http://{registry}", reauth=True)["Status"], "Login Succeeded")

# Of containers.
command = ["/bin/sh", "-c", "echo x > /new; while :; do read line; done"]
box = client.containers.create(f"{repository}:1", command=command, stdin_open=True)
box.start()
for _ in range(400):
    if {"Path": "/new", "Kind": 1} in (box.diff() or []):
        break
    time.sleep(0.05)
made = box.commit(
    repository="py/commit", tag="1", message="m", author="a", changes=['CMD ["true"]'], conf={"Labels": {"q": "1"}}
)
config = made.attrs["Config"]
is_same("commit", (made.tags, made.attrs["Comment"], made.attrs["Author"]), (["py/commit:1"], "m", "a"))
is_same("its configuration", (config["Cmd"], config["Labels"]["q"], config["Env"]), (["true"], "1", ["A=b"]))
# Debian 12's version always pauses.
is_same("a commit without a name", box.commit().tags, [])
with tarfile.open(fileobj=io.BytesIO(b"".join(box.export(chunk_size=4096)))) as files:
    is_same("export", {"new", "bin/sh", "etc/motd"} <= set(files.getnames()), True)
used = client.df()
# What is brig's own is named after it.
docker = [name for name in used if used[name] and not name.startswith("Brig")]
is_same("df", sorted(docker), ["Containers", "Images", "LayersSize"])
is_same("its sizes", min(found["Size"] for found in used["Images"]) > 0, True)
fails("remove what is used", errors.APIError, 409, lambda: client.images.remove(image.id))
box.remove(force=True)

# And away.
fails("remove", errors.ImageNotFound, 404, lambda: client.images.remove("nosuch"))
client.images.remove("py/file:1", noprune=True)
is_same("removed", [sorted(line) for line in api.remove_image("py/generic")][0], ["Untagged"])
is_same("prune", len(client.images.prune()["ImagesDeleted"]) > 0, True)
fails("prune by nonsense", errors.APIError, 400, lambda: client.images.prune(filters={"x": 1}))
is_same("prune nothing", client.images.prune(filters={"dangling": False, "label": "nothing"})["SpaceReclaimed"], 0)
is_same("prune all", client.images.prune(filters={"dangling": False})["SpaceReclaimed"] > 0, True)
is_same("nothing is left", client.images.list(all=True), [])
seen = api.events(since=int(time.time()) - 300, until=int(time.time()) + 1, filters={"type": "image"}, decode=True)
actions = {event["Action"] for event in seen}
is_same("events", actions, {"import", "tag", "untag", "delete", "create", "save", "load", "push", "pull", "prune"})
print("all as with Docker")
