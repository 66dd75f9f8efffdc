"""The tree of Standpipe over stdin and stdout, with the official Python SDK, which starts the command:
stdio_client.py ERA COMMAND ARGUMENTS…, where the era is `legacy` or `auto`, which begins with the modern one."""

import asyncio
import os
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters

ERA, COMMAND, ARGUMENTS = sys.argv[1], sys.argv[2], sys.argv[3:]


async def main():
    env = {name: os.environ[name] for name in ("PATH", "STANDPIPE_TOKEN", "XDG_STATE_HOME") if name in os.environ}
    async with Client(StdioServerParameters(command=COMMAND, args=ARGUMENTS, env=env), mode=ERA) as client:
        tools = await client.list_tools()
        assert any(tool.name == "tree_get" for tool in tools.tools), tools

        async def call(name, arguments):
            result = await client.call_tool(name, arguments)
            assert not result.is_error, result
            return result.structured_content

        async def write(number):
            value = {"number": number, "text": "x" * number * 500}
            await call("tree_set", {"path": f"/test/{number}", "value": value})
            assert (await call("tree_get", {"path": f"/test/{number}"}))["value"] == value

        await asyncio.gather(*(write(number) for number in range(20)))
        contents = (await client.read_resource("tree:///test/3/number")).contents
        assert "3" in contents[0].text, contents
        assert (await client.call_tool("tree_get", {"path": 7})).is_error
    print("ok", ERA)


asyncio.run(main())
