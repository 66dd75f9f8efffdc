"""Agents at a board, with the official Python SDK: board.py ERA COMMAND..., where COMMAND is what the agent's editor would start
(`standpipe mcp --url URL`), or a URL. What they do is the recipe of docs/agents.md."""

import asyncio
import json
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters

ERA, COMMAND = sys.argv[1], sys.argv[2:]


def board():
    if COMMAND[0].startswith("http"):
        return Client(COMMAND[0], mode=ERA)
    return Client(StdioServerParameters(command=COMMAND[0], args=COMMAND[1:]), mode=ERA)


async def call(agent, tool, **arguments):
    result = await agent.call_tool(tool, arguments)
    if result.is_error:
        return None, result.content[0].text
    return result.structured_content, None


async def claim(agent, name, work):
    """Whether this agent has the work now."""
    done, error = await call(agent, "tree_set", path=f"/board/claims/{work}", value=name, if_etag="null_etag")
    assert done or error.startswith("etag_mismatch"), error
    return done is not None


async def alive(agent, name, doing):
    values = {"seen": {".sv": "timestamp"}, "doing": doing}
    _, error = await call(agent, "tree_update", path=f"/board/agents/{name}", values=values)
    assert error is None, error


async def work(name, all_work):
    """Claims what it can, and says so."""
    async with board() as agent:
        tools = {tool.name for tool in (await agent.list_tools()).tools}
        assert {"tree_set", "tree_wait", "tree_push"} <= tools, tools
        await alive(agent, name, "looking for work")
        return [item for item in all_work if await claim(agent, name, item)]


async def race():
    names = [f"agent-{number}" for number in range(1, 5)]
    all_work = [f"issue-{number}" for number in range(10)]
    won = await asyncio.gather(*(work(name, all_work) for name in names))
    taken = sorted(item for items in won for item in items)
    assert taken == all_work, f"each piece of work is one agent's: {won}"
    async with board() as agent:
        value, _ = await call(agent, "tree_get", path="/board/claims")
        holders = {item: name for name, items in zip(names, won) for item in items}
        assert value["value"] == holders, (value, holders)


async def talk():
    """One waits, one writes; the waiting one sees each message, whenever it asks."""
    async with board() as ann, board() as bob:
        texts = [f"message {number}" for number in range(5)]

        async def listen():
            seen, etag = [], "null_etag"
            while len(seen) < len(texts):
                got, error = await call(ann, "tree_wait", path="/board/messages", etag=etag, timeout_ms=20000)
                assert error is None and got["changed"], (got, error)
                etag, value = got["etag"], got["value"]
                seen = [value[key]["text"] for key in sorted(value)]
            return seen

        async def speak():
            for text in texts:
                message = {"from": "bob", "to": "all", "text": text}
                done, error = await call(bob, "tree_push", path="/board/messages", value=message)
                assert error is None and done["child_path"].startswith("/board/messages/"), (done, error)

        seen, _ = await asyncio.gather(listen(), speak())
        assert seen == texts, seen
        got, _ = await call(ann, "tree_get", path="/board/messages")
        nothing, _ = await call(ann, "tree_wait", path="/board/messages", etag=got["etag"], timeout_ms=50)
        assert not nothing["changed"] and nothing["etag"] == got["etag"], nothing


async def take_over():
    """The holder died; of two who see that, one takes its work."""
    async with board() as ann, board() as bob:
        dead, _ = await call(ann, "tree_get", path="/board/claims/issue-0")
        again, _ = await call(bob, "tree_get", path="/board/claims/issue-0")
        assert dead["etag"] == again["etag"] != "null_etag", (dead, again)

        async def take(agent, name):
            return await call(agent, "tree_set", path="/board/claims/issue-0", value=name, if_etag=dead["etag"])

        results = await asyncio.gather(take(ann, "ann"), take(bob, "bob"))
        errors = [error for _, error in results if error]
        assert len(errors) == 1 and errors[0].startswith("etag_mismatch"), results
        winner = ann if results[0][1] is None else bob
        values = {"done/issue-0": "fixed", "claims/issue-0": None}
        _, error = await call(winner, "tree_update", path="/board", values=values)
        assert error is None, error
        left, _ = await call(winner, "tree_get", path="/board/claims/issue-0")
        assert not left["exists"], left


async def main():
    await race()
    await talk()
    await take_over()
    print(json.dumps("done"), flush=True)


asyncio.run(asyncio.wait_for(main(), 120))
