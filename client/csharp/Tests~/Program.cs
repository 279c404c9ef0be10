using System;

namespace Gateway.Client.Tests
{
    /// <summary>
    /// client-tests.exe runs the tests that need no gateway, from the root of the repository. client-tests.exe ORIGIN
    /// obeys the test at this origin. client-tests.exe example URL runs the example of the README.
    /// </summary>
    internal static class Program
    {
        private static int Main(string[] arguments)
        {
            switch (arguments.Length)
            {
                case 0:
                    return RunTests();
                case 1:
                    new Agent(arguments[0]).Obey();
                    return 0;
                default:
                    Example.Run(arguments[1]);
                    return 0;
            }
        }

        private static int RunTests()
        {
            var suite = new Suite();
            ReconnectVectors.Run(suite);
            MessageVectors.Run(suite);
            SessionTests.Run(suite);
            BoundaryTests.Run(suite);
            SocketTests.Run(suite);
            PackageTests.Run(suite);
            Console.WriteLine("passed: " + suite.Passed);
            return suite.Failed == 0 ? 0 : 1;
        }
    }
}
