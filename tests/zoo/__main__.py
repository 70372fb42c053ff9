"""Write docs/compatibility.md."""

from zoo.oddity import oddities
from zoo.page import PAGE, render

PAGE.write_text(render(oddities()))
