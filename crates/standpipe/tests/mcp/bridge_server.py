"""A server with the official Python SDK, over stdio, for clients of the other era: it wants input, tells progress, and that a resource and
the list of tools have changed."""

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult, ListRootsRequest

server = MCPServer("modern", version="7")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@server.tool()
async def greet(context: Context) -> str | InputRequiredResult:
    """Asks for a name and for the roots."""
    answers = context.input_responses
    if not answers:
        return InputRequiredResult(
            input_requests={
                "who": ElicitRequest(params=ElicitRequestFormParams(message="who?", requested_schema=SCHEMA)),
                "roots": ListRootsRequest(),
            },
            request_state="first",
        )
    return f"hello {answers['who'].content['name']} of {answers['roots'].roots[0].uri}, {context.request_state}"


@server.tool()
async def count(context: Context) -> str:
    """Counts to three."""
    for step in (1, 2, 3):
        await context.report_progress(step, 3)
    return str(context.protocol_version)


@server.resource("note:///1")
async def note() -> str:
    return "a note"


@server.tool()
async def touch(context: Context) -> str:
    """Says that the note has changed."""
    await context.notify_resource_updated("note:///1")
    await context.notify_tools_changed()
    return "touched"


server.run("stdio")
