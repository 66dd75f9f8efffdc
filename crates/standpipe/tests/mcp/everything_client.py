"""Clients of `server-everything` behind whatever URL is given, with the official Python SDK:
everything_client.py URL CLIENTS ERA, where the era is `legacy` or `auto`, which begins with the modern one."""

import asyncio
import sys

from mcp import Client, MCPError
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

URL, COUNT, ERA = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def text(result):
    return "\n".join(getattr(part, "text", "") for part in result.content)


def client(number):
    async def sampled(*_):
        return CreateMessageResult(role="assistant", model="none", content=TextContent(type="text", text=f"sampled by {number}"))

    async def elicited(*_):
        return ElicitResult(action="accept", content={"name": f"name {number}"})

    async def roots(*_):
        return ListRootsResult(roots=[Root(uri=f"file:///root-{number}", name="root")])

    return Client(URL, mode=ERA, sampling_callback=sampled, elicitation_callback=elicited, list_roots_callback=roots)


async def play(number):
    async with client(number) as session:
        tools = await session.list_tools()
        assert any(tool.name == "echo" for tool in tools.tools), tools
        assert len((await session.list_resources()).resources) >= 7
        assert len((await session.list_prompts()).prompts) >= 4

        async def echo(call):
            message = f"client {number} call {call} {'x' * call * 100}"
            result = await session.call_tool("echo", {"message": message})
            assert text(result) == f"Echo: {message}", result

        await asyncio.gather(*(echo(call) for call in range(20)))
        assert str(number + 1000) in text(await session.call_tool("get-sum", {"a": number, "b": 1000}))
        structured = await session.call_tool("get-structured-content", {"location": "Chicago"})
        assert isinstance(structured.structured_content["temperature"], (int, float)), structured

        seen = []

        async def progress(now, *_):
            seen.append(now)

        await session.call_tool(
            "trigger-long-running-operation", {"duration": 0.4, "steps": 4}, progress_callback=progress
        )
        assert seen == [1, 2, 3, 4], seen
        content = await session.read_resource("demo://resource/dynamic/text/7")
        assert "7" in content.contents[0].text
        try:
            await session.read_resource("demo://resource/nowhere")
            raise AssertionError("there is no such resource")
        except MCPError as error:
            assert error.error.code in (-32602, -32002), error
        prompt = await session.get_prompt("args-prompt", {"city": "Bern"})
        assert "Bern" in str(prompt.messages)
        if COUNT == 1:
            await asyncio.sleep(0.5)
            asked = await session.call_tool("trigger-sampling-request", {"prompt": "x", "maxTokens": 10})
            assert f"sampled by {number}" in text(asked), asked
            asked = await session.call_tool("trigger-elicitation-request", {})
            assert f"name {number}" in text(asked), asked


async def main():
    await asyncio.gather(*(play(number) for number in range(COUNT)))
    print("ok", COUNT, ERA)


asyncio.run(asyncio.wait_for(main(), 90))
