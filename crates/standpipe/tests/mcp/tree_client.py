"""The tree with the official Python SDK: tree_client.py URL ERA [TOKEN SCOPES], where the era is `legacy` or `auto`, which begins with the
modern one. Every tool is called, and what comes back is checked by the SDK against the tool's schema, and here against what was written.
With a token, the scopes it is narrowed to are checked instead."""

import asyncio
import json
import sys

from mcp import Client, MCPError
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

URL, ERA = sys.argv[1], sys.argv[2]
TOKEN, SCOPES = (sys.argv[3], sys.argv[4]) if len(sys.argv) > 3 else (None, None)
TREE = ["tree_list", "tree_get", "tree_query", "tree_set", "tree_update", "tree_push", "tree_delete"]


def content(result):
    assert not result.is_error, result
    assert json.loads(result.content[0].text) == result.structured_content, result
    return result.structured_content


def failure(result):
    assert result.is_error and result.structured_content is None, result
    error = result.meta["dev.standpipe/error"]
    assert result.content[0].text.startswith(error["code"] + ": "), result
    return error


async def tools(session):
    listed = await session.list_tools()
    names = [tool.name for tool in listed.tools]
    assert [name for name in names if name in TREE] == TREE, names
    for tool in listed.tools:
        assert tool.output_schema and tool.title and tool.annotations.open_world_hint is not None, tool

    async def call(name, **arguments):
        return content(await session.call_tool(name, arguments))

    board = {"issues": {"1": {"title": "one", "age": 3}, "2": {"title": "two", "age": 1}}, "open": True}
    written = await call("tree_set", path="/board", value=board)
    got = await call("tree_get", path="board")
    assert got["etag"] == written["etag"] and got["exists"] and not got["truncated"], got
    assert got["value"]["open"] is True, got
    outline = await call("tree_get", path="/board", depth=0)
    assert outline["truncated"] and outline["value"] == {"issues": True, "open": True}, outline
    listed = await call("tree_list", path="/board", limit=1)
    assert listed["children"] == [{"key": "issues", "kind": "object"}] and listed["next"] == "issues", listed
    rest = await call("tree_list", path="/board", after=listed["next"])
    assert rest["children"] == [{"key": "open", "kind": "boolean", "value": True}] and "next" not in rest, rest
    found = await call("tree_query", path="/board/issues", order_by="age", limit_to_last=1)
    assert [item["key"] for item in found["items"]] == ["1"], found
    updated = await call("tree_update", path="/board", values={"issues/1/state": "done", "open": None})
    assert updated["written"] == 2 and updated["etag"] == (await call("tree_get", path="/board"))["etag"], updated
    pushed = await call("tree_push", path="/board/log", value={"by": "python"})
    assert (await call("tree_get", path=pushed["child_path"]))["etag"] == pushed["etag"], pushed
    claims = [session.call_tool("tree_set", {"path": "/board/claim", "value": n, "if_etag": "null_etag"}) for n in range(8)]
    claims = await asyncio.gather(*claims)
    assert sum(not claim.is_error for claim in claims) == 1, claims
    now = (await call("tree_get", path="/board/claim"))["etag"]
    assert all(failure(claim) == {"code": "etag_mismatch", "etag": now} for claim in claims if claim.is_error), claims
    assert (await call("tree_delete", path="/board/claim", if_etag=now))["existed"]
    assert failure(await session.call_tool("tree_get", {"path": "/board/a.b"}))["code"] == "invalid_path"
    assert failure(await session.call_tool("tree_get", {"path": "/", "nonsense": 1}))["code"] == "invalid_argument"
    try:
        await session.call_tool("nonsense", {})
        raise AssertionError("there is no such tool")
    except MCPError as error:
        assert error.error.code == -32602, error


async def resources(session):
    listed = await session.list_resources()
    uris = [str(resource.uri) for resource in listed.resources]
    assert uris[0] == "tree:///" and "tree:///board" in uris, uris
    templates = await session.list_resource_templates()
    assert templates.resource_templates[0].uri_template == "tree:///{+path}", templates
    read = await session.read_resource("tree:///board/issues/1/title")
    assert read.contents[0].text == '"one"' and read.contents[0].mime_type == "application/json", read
    try:
        await session.read_resource("tree:///board/nowhere")
        raise AssertionError("there is no such resource")
    except MCPError as error:
        assert error.error.code == (-32002 if ERA == "legacy" else -32602), error


async def refused(session):
    """Rules are those of the caller, who is nobody."""
    assert failure(await session.call_tool("tree_get", {"path": "/private"}))["code"] == "permission_denied"
    assert failure(await session.call_tool("tree_set", {"path": "/private", "value": 1}))["code"] == "permission_denied"
    assert not (await session.call_tool("tree_get", {"path": "/board"})).is_error


async def narrowed(session):
    names = [tool.name for tool in (await session.list_tools()).tools]
    assert "tree_get" in names and ("tree_set" in names) == ("tree:write" in SCOPES), names
    content(await session.call_tool("tree_get", {"path": "/board"}))
    if "tree:write" not in SCOPES:
        try:
            await session.call_tool("tree_set", {"path": "/board/x", "value": 1})
            raise AssertionError("the token is not for writing")
        except Exception as error:
            assert "403" in str(error) or "scope" in str(error) or "4030" in str(error), repr(error)


async def main():
    if TOKEN:
        async with create_mcp_http_client({"authorization": f"Bearer {TOKEN}"}) as http:
            async with Client(streamable_http_client(URL, http_client=http), mode=ERA) as session:
                await narrowed(session)
    else:
        async with Client(URL, mode=ERA) as session:
            await tools(session)
            await resources(session)
            await refused(session)
    print("ok", ERA)


asyncio.run(asyncio.wait_for(main(), 90))
