// What is wider than the page scrolls in its own box: give those boxes, and only while they scroll, to the Tab key.
const boxes = document.querySelectorAll('article :is(pre, .picture, .table-wrapper, div.math, p:has(> img))');
const observer = new ResizeObserver(() => boxes.forEach(box => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute('tabindex');
}));
boxes.forEach(box => observer.observe(box));
