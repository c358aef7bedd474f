"""`sayo look`: one response, token by token, over the image that it talks about."""

from sayo.look.look import Look, look_at
from sayo.look.page import write_page
from sayo.look.picture import save_picture

__all__ = ["Look", "look_at", "save_picture", "write_page"]
