// In the language of old browsers: why the page cannot work, before a module is loaded.
(function () {
  // A function that returns a vector, and one that catches what is thrown.
  var needed = [
    [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11],
    [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 8, 1, 6, 0, 6, 64, 25, 11, 11]
  ];
  function works() {
    if (typeof WebAssembly !== "object" || typeof Worker !== "function" || !("noModule" in document.createElement("script")))
      return false;
    for (var i = 0; i < needed.length; i++)
      if (!WebAssembly.validate(new Uint8Array(needed[i]))) return false;
    return true;
  }
  var problem = "";
  if (location.protocol === "file:")
    problem = "This page works from a web server only: run \"python3 -m http.server\" in its folder and open http://localhost:8000/.";
  else if (!works())
    problem = "This browser is too old for the page, which needs WebAssembly with SIMD and exceptions: use a current Chrome, Edge, Firefox or Safari.";
  if (problem) {
    document.querySelector("#error").textContent = problem;
    document.documentElement.className = "unusable";
  }
})();
