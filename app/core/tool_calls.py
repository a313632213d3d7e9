"""The marks around a call of a tool, in the form that Hermes and Qwen were trained to write.

<tool_call>
{"name": "weather", "arguments": {"city": "Oslo"}}
</tool_call>
"""

BEGIN, END = "<tool_call>", "</tool_call>"
